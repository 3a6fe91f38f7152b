"""The grid of drawings and the shares by concept: judges that read a pixel, drawings worked by hand, and the page."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image
from reports import erasure, painted, report
from test_pages import Page
from torch.nn.functional import one_hot

from unlearn import drawings, figures, registry
from unlearn.evals.erasure import Erasure
from unlearn.gallery import Gallery
from unlearn.metric import Evidence
from unlearn.report import html, reproduce

SHAPES, COLOURS = ("dot", "line", "ring"), ("red", "blue")
PAIRS = list(itertools.product(range(3), range(2), range(2)))  # two drawings of each pair


def reader(at, classes):
    """A judge that sees the concept whose number a pixel holds."""
    return lambda x: one_hot((x[:, 0, 0, at] * 10).round().long(), classes + 1).float()


def gallery(axis="shape", target=1):
    captions = tuple(f"{COLOURS[c]} {SHAPES[s]} {k}" for s, c, k in PAIRS)
    shape, colour = (torch.tensor([p[k] for p in PAIRS]) for k in (0, 1))
    return Gallery(captions, {"shape": shape, "colour": colour}, {"shape": SHAPES, "colour": COLOURS},
                   {"shape": reader(0, 3), "colour": reader(1, 2)}, axis, target)  # fmt: skip


def painting(shown):
    """One image for each pair, in which the judges see these shapes and colours."""
    images = torch.full((len(shown), 3, 4, 4), 0.5)
    images[:, 0, 0, :2] = torch.tensor(shown) / 10
    return images


class Painter:
    module = None


def evidence(unlearned, oracle=True, shown=None):
    right = [(s, c) for s, c, _ in PAIRS]
    images = {"original": painting(right), "unlearned": painting(unlearned)}
    if oracle:
        images["oracle"] = painting([(0 if s == 1 else s, c) for s, c in right])
    return Evidence(dict.fromkeys(images, Painter()), {}, gallery=shown or gallery(),
                    cache=lambda who, _where, _make: {"images": images[who]})  # fmt: skip


# lines become a dot, a ring, nothing and stay a line; one red dot becomes a blue ring, one blue ring nothing
SPOILT = [(0, 0), (2, 1), (0, 1), (0, 1), (0, 0), (2, 0), (3, 1), (1, 1), (2, 0), (2, 0), (2, 2), (2, 1)]


def test_each_pair_of_the_concept_comes_first_then_its_neighbours():
    data = figures.collect(evidence(SPOILT))["drawings"]
    assert data["captions"] == ["red line 0", "blue line 0", "red dot 0", "blue ring 0"]
    assert data["asks"] == [True, True, False, False]
    assert data["asked"] == ["line", "line", "dot", "ring"]
    assert (data["concept"], data["axis"]) == ("line", "shape")


def test_for_the_other_axis_it_is_the_other_way_round():
    data = figures.collect(evidence(SPOILT, shown=gallery("colour", 0)))["drawings"]
    assert data["captions"] == ["red dot 0", "red line 0", "red ring 0", "blue dot 0"]
    assert data["asks"] == [True, True, True, False]
    assert data["seen"]["original"] == ["red", "red", "red", "blue"]


def test_the_judge_of_the_erased_axis_says_what_it_sees():
    seen = figures.collect(evidence(SPOILT))["drawings"]["seen"]
    assert seen["original"] == ["line", "line", "dot", "ring"]
    assert seen["unlearned"] == ["dot", None, "dot", "ring"]
    assert seen["oracle"] == ["dot", "dot", "dot", "ring"]
    assert "oracle" not in figures.collect(evidence(SPOILT, oracle=False))["drawings"]["seen"]


def test_the_grid_has_few_columns_and_they_are_spread():
    many = list(itertools.product(range(20), range(10)))
    asked = {"shape": torch.tensor([s for s, _ in many]), "colour": torch.tensor([c for _, c in many])}
    names = {"shape": tuple(map(str, range(20))), "colour": tuple(map(str, range(10)))}
    made = Gallery(tuple(map(str, many)), asked, names, {}, "shape", 4)
    rows = drawings.chosen(made)
    assert len(rows) == drawings.COLUMNS == len(set(rows))
    targets = [r for r in rows if many[r][0] == 4]
    assert rows[: drawings.TARGETS] == targets
    assert (many[targets[0]], many[targets[-1]]) == ((4, 0), (4, 9))
    assert [many[r] for r in rows[drawings.TARGETS :]] == [(0, 0), (7, 1), (13, 2), (19, 3)]


def test_images_are_the_drawings_as_they_are():
    data = figures.collect(evidence(SPOILT))["drawings"]["images"]
    assert [len(row) for row in data.values()] == [4, 4, 4]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["unlearned"][0]))))
    assert pixels.shape == (4, 4, 3)
    assert pixels[0, 0].tolist() == [0, 128, 128], "not stretched"
    assert data["original"][2] == data["unlearned"][2], "the same drawing"
    assert data["original"][0] != data["unlearned"][0]


def test_large_drawings_are_averaged_down_and_broken_ones_are_black():
    big = torch.zeros(3, 1024, 512)
    big[:, :, 256:] = 1
    small = drawings.shrunk(big)
    assert small.shape == (3, 128, 64)
    assert small.mean() == 0.5
    nan = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(drawings.png(torch.full((3, 2, 2), float("nan"))))))
    )
    assert nan.max() == 0


def test_shares_by_concept_are_those_worked_by_hand():
    first, second = figures.collect(evidence(SPOILT))["concepts"]
    assert (first["axis"], first["erased"], first["names"], first["n"]) == (
        "shape",
        "line",
        list(SHAPES),
        [4] * 3,
    )
    assert first["right"] == {"original": [1, 1, 1], "unlearned": [0.75, 0.25, 1], "oracle": [1, 0, 1]}
    assert (second["axis"], second["erased"], second["n"]) == ("colour", None, [4, 4])
    assert second["right"]["unlearned"] == [0.75, 0.75], "without the prompts of the erased concept"


def test_shares_by_concept_have_the_means_of_the_scores():
    ev = evidence(SPOILT)
    scores = {s.name: s.value for s in Erasure().measure(ev)}
    shape, colour = (a["right"]["unlearned"] for a in figures.collect(ev)["concepts"])
    assert (shape[0] + shape[2]) / 2 == pytest.approx(scores["erasure/in-domain"])
    assert sum(colour) / 2 == pytest.approx(scores["erasure/cross-domain"])
    assert scores["erasure/ua"] == 0.5


def test_a_concept_that_no_prompt_asks_for_has_no_share():
    shown = gallery()
    shown = Gallery(shown.captions, shown.asked, {"shape": (*SHAPES, "star"), "colour": COLOURS},
                    {"shape": reader(0, 4), "colour": reader(1, 2)}, "shape", 1)  # fmt: skip
    assert (
        figures.collect(evidence([(s, c) for s, c, _ in PAIRS], shown=shown))["concepts"][0]["right"][
            "original"
        ][3]
        is None
    )


# The page


def test_the_page_shows_each_drawing_and_what_is_seen_in_it():
    source = html.render([erasure()])
    page = Page(source)
    assert "The same prompts from the same noise" in page.said
    assert "asked for the erased concept: three" in page.said
    assert [link for link in page.links if "image" in link] == [
        f"data:image/png;base64,{who}{k}" for who in ("original", "unlearned", "oracle") for k in range(3)
    ]
    assert "unlearned eight three nothing" in page.said
    assert 'alt="unlearned, a four in chalk: seen as nothing"' in source
    assert re.findall(r'class="off">(\w+)<', source) == ["three", "nothing"]


def test_the_page_shows_how_each_concept_fared():
    said = Page(html.render([erasure()])).said
    assert "Concept by concept" in said
    assert "three erased 95.0 % 50.0 % 0.0 % four 90.0 % 87.5 % 90.0 %" in said
    assert "style original unlearned oracle chalk 100.0 % 75.0 % 100.0 %" in said
    assert "unasked" not in said


def test_without_an_oracle_the_grid_has_two_rows():
    said = Page(html.render([erasure(oracle=False)])).said
    assert "three erased 95.0 % 50.0 % four 90.0 % 87.5 %" in said
    assert "oracle two five four" not in said


def test_the_first_numbers_are_those_of_the_erasure():
    said = Page(html.render([erasure()])).said
    assert "Drawings of the concept that show another 99.0 % oracle 98.0 % before 2.0 %" in said
    assert "Drawings that show nothing 1.0 %" in said
    assert "Drawings that show nothing" not in Page(html.render([report()])).said


def test_reports_without_drawings_have_neither():
    said = Page(html.render([report()])).said
    assert "same noise" not in said
    assert "Concept by concept" not in said


def test_hostile_captions_and_concepts_are_text():
    evil = '"><script>alert(1)</script>'
    figure = painted()
    figure["drawings"].update(concept=evil, captions=[evil] * 3, axis=evil)
    figure["drawings"]["seen"]["unlearned"] = [evil] * 3
    figure["concepts"][0].update(names=[evil, "four"], axis=evil)
    page = Page(html.render([erasure().model_copy(update={"figures": figure})]))
    assert "script" not in page.tags
    assert page.said.count(evil) >= 3 + 3 + 2


def test_the_printed_command_measures_the_erasure_again():
    one = erasure()
    one.recipe["metrics"] = [["erasure", {}], ["read", {}]]
    assert "--metrics erasure,read" in reproduce.command(one)
    assert "--metrics" not in reproduce.command(report())
    budget = {**registry.attacks.get("inversion")().to_dict(), "iterations": 7, "tries": 1}
    one.recipe["metrics"] += [
        ["inversion", budget],
        ["quantise", registry.attacks.get("quantise")().to_dict()],
    ]
    assert reproduce.command(one).endswith(
        "--metrics erasure,read --attack inversion/iterations=7,tries=1 --attack quantise"
    )
