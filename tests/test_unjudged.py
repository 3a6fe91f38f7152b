"""Drawings that nobody judges, and erasures with neighbours of one kind or none."""

import pytest
import torch
from reports import ERASED, erasure
from test_drawings import SPOILT, evidence, gallery

from unlearn import figures
from unlearn.errors import Mismatch
from unlearn.evals.erasure import Erasure
from unlearn.gallery import Gallery
from unlearn.report import grid, html
from unlearn.report.summary import groups
from unlearn.report.verdict import judge


def without(*names, **values):
    """The verdict on an erasure that worked, less some scores, and with these values of the rest."""
    one = erasure(oracle=False, changes={n: (v, *ERASED[n][1:]) for n, v in values.items()})
    return judge(
        groups([one.model_copy(update={"scores": tuple(s for s in one.scores if s.name not in names)})])[0]
    )


def unjudged():
    whole = gallery()
    return Gallery(whole.captions, whole.asked, whole.names, {}, whole.axis, whole.target)


def one_axis():
    whole = gallery()
    return Gallery(
        whole.captions, whole.asked, whole.names, {"shape": whole.judges["shape"]}, "shape", whole.target
    )


def test_neighbours_of_one_kind_are_enough_for_a_verdict():
    found = without("erasure/cross-domain")
    assert found.kind == "forgotten"
    assert "on the concept's own axis" in found.text
    assert "other axes" not in found.text
    assert without("erasure/cross-domain", **{"in-domain": 0.8}).kind == "partly"
    assert without("erasure/cross-domain", **{"in-domain": 0.3}).kind == "destroyed"


def test_without_neighbours_nobody_can_tell():
    found = without("erasure/cross-domain", "erasure/in-domain")
    assert (found.kind, found.words) == ("unknown", "Cannot tell")
    assert "damage could not be seen" in found.text


def test_without_a_judge_nobody_can_tell():
    found = without(**dict.fromkeys(ERASED))
    assert (found.kind, found.words) == ("unknown", "Cannot tell")
    assert "No judge looked at the drawings" in found.text


def test_scores_without_a_judge_are_unknown():
    scores = Erasure().measure(evidence(SPOILT, shown=unjudged()))
    assert [s.name.partition("/")[2] for s in scores] == ["ua", "in-domain", "cross-domain", "nothing"]
    assert all(s.value is None and s.note == "no judge: cannot tell" and s.headline for s in scores)
    with pytest.raises(Mismatch, match="no judge looks at colours in these drawings; name one, or choose"):
        evidence(SPOILT, shown=one_axis()).judged("original", "colour")


def test_a_judge_of_the_concept_alone_gives_three_scores():
    scores = Erasure().measure(evidence(SPOILT, shown=one_axis()))
    assert {s.name.partition("/")[2]: s.value for s in scores} == pytest.approx(
        {"ua": 0.5, "in-domain": 7 / 8, "nothing": 1 / 12}
    )


def test_pairs_are_shown_without_a_judge():
    made = figures.collect(evidence(SPOILT, shown=unjudged()))
    assert made["drawings"]["captions"] == ["red line 0", "blue line 0", "red dot 0", "blue ring 0"]
    assert not made["drawings"]["seen"] and "concepts" not in made
    shown = grid.drawings(made["drawings"])
    assert shown["judged"] is False
    cells = [c for row in shown["rows"] for c in row["cells"]]
    assert not any(c["off"] or c["seen"] for c in cells)
    assert cells[0]["alt"] == "original, red line 0"
    one = erasure()
    page = html.render([one.model_copy(update={"figures": {"drawings": made["drawings"]}})])
    assert "No judge looked at them" in page and "seen as" not in page


def test_axes_that_nobody_judges_tell_drawings_apart():
    asked = {"concept": torch.tensor([0, 0, 1]), "drawing": torch.tensor([0, 1, 0])}
    names = {"concept": ("cat", "dog"), "drawing": ("1", "2")}
    shown = Gallery(("cat", "a cat", "dog"), asked, names, {}, "concept", 0)
    assert shown.concept == "cat" and not shown.judged
    from unlearn.drawings import chosen

    assert chosen(shown) == [0, 1, 2]
