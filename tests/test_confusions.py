"""What is drawn instead of each concept: the matrix of the erased axis in the report's data and on the page."""

import itertools

import torch
from reports import erasure, painted
from test_pages import Page

from unlearn import figures
from unlearn.gallery import Gallery
from unlearn.metric import Evidence
from unlearn.report import grid, html

NAMES = ("dot", "line", "ring", "star")
ASKED = list(itertools.product(range(3), range(2)))  # two drawings of each; nobody asks for a star


class Painter:
    module = None


def evidence(seen):
    shape, colour = (torch.tensor([p[k] for p in ASKED]) for k in (0, 1))
    judges = {
        "shape": lambda x: torch.nn.functional.one_hot(x[:, 0, 0, 0].nan_to_num(4).long(), 5).float(),
        "colour": lambda x: torch.eye(3)[colour],
    }
    gallery = Gallery(tuple(map(str, ASKED)), {"shape": shape, "colour": colour}, {"shape": NAMES, "colour": ("x", "y")},
                      judges, "shape", 1)  # fmt: skip
    images = {who: torch.zeros(6, 3, 2, 2) for who in seen}
    for who, found in seen.items():
        images[who][:, 0, 0, 0] = torch.tensor(found)
    return Evidence(dict.fromkeys(seen, Painter()), {}, gallery=gallery,
                    cache=lambda who, _where, _make: {"images": images[who]})  # fmt: skip


def test_rows_are_what_was_asked_and_columns_what_is_seen():
    nan = float("nan")
    seen = {"original": [0.0, 0, 1, 1, 2, 2], "unlearned": [0.0, 0, 3, 4, 2, nan]}
    first, second = figures.collect(evidence(seen))["concepts"]
    assert first["drawn"]["original"] == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], None]
    assert first["drawn"]["unlearned"] == [[1, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0.5, 0, 0.5], None]
    assert first["right"]["unlearned"] == [1, 0, 0.5, None], "its diagonal"
    assert "drawn" not in second, "the other axes were not erased"


def report():
    figure = painted()
    figure["concepts"][0]["drawn"] = {
        "original": [[0.95, 0.05, 0], [0, 1, 0]],
        "unlearned": [[0.5, 0.375, 0.125], None],
    }
    return erasure().model_copy(update={"figures": figure})


def test_the_page_shows_what_is_drawn_instead():
    source = html.render([report()])
    said = Page(source).said
    assert "What is drawn instead Rows are what was asked for, columns what the object judge sees" in said
    assert "original three four nothing three 95 5 four 100" in said
    assert "unlearned three four nothing three 50 38 12" in said, "a concept without prompts has no row"
    assert 'style="--share:57%">95<' in source


def test_a_page_of_an_older_report_or_of_many_concepts_has_no_matrix():
    assert "What is drawn instead" not in html.render([erasure()])
    many = [str(k) for k in range(grid.WIDEST + 1)]
    assert (
        grid.confusions([{"axis": "style", "names": many, "erased": "0", "drawn": {"original": [[1.0]]}}])
        == []
    )
