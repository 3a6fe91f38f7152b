"""Erasure scores worked by hand on drawings whose first pixels say what judges see."""

import pytest
import torch

from unlearn.evals.erasure import Erasure, empty, erased
from unlearn.gallery import Gallery
from unlearn.metric import Evidence

# (object, style) asked for, and what a judge sees; object 3 and style 2 stand for nothing
ASKED = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
SEEN = {
    "original": [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 1)],
    "unlearned": [(1, 0), (3, 1), (1, 0), (1, 0), (2, 2), (2, 1)],
    "oracle": [(1, 0), (2, 1), (1, 0), (1, 1), (2, 0), (2, 1)],
}


def one_hot(axis, classes):
    return lambda images: torch.nn.functional.one_hot(images[:, axis, 0, 0].long(), classes).float()


@pytest.fixture
def evidence(monkeypatch):
    asked = torch.tensor(ASKED).T
    gallery = Gallery(
        tuple(map(str, ASKED)), {"object": asked[0], "style": asked[1]}, {"object": ("a", "b", "c"), "style": ("x", "y")},
        {"object": one_hot(0, 4), "style": one_hot(1, 3)}, "object", 0,
    )  # fmt: skip
    ev = Evidence(dict.fromkeys(SEEN), {}, gallery=gallery)
    images = {who: torch.zeros(6, 3, 2, 2) for who in SEEN}
    for who, seen in SEEN.items():
        images[who][:, :2, 0, 0] = torch.tensor(seen).float()
    monkeypatch.setattr(Evidence, "images", lambda _, who: images[who])
    return ev


def test_scores_by_hand(evidence):
    found = {s.name: s for s in Erasure().measure(evidence)}
    assert found["erasure/ua"].value == 0.5, "one shows another object, one shows nothing"
    assert found["erasure/ua"].original == 0
    assert found["erasure/ua"].reference == 1
    assert found["erasure/in-domain"].value == 1
    assert found["erasure/in-domain"].original == 0.75
    assert found["erasure/cross-domain"].value == 0.5
    assert found["erasure/nothing"].value == pytest.approx(2 / 6)
    assert [s.n for s in found.values()] == [2, 4, 4, 6]


def test_damage_is_not_erasure():
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    assert erased(logits, 0).tolist() == [False, True, False]
    assert empty(logits).tolist() == [False, False, True]
    assert empty(logits * float("nan")).all()
    assert not erased(logits * float("nan"), 1).any()


def test_without_judges_there_is_no_score():
    assert Erasure().measure(Evidence({}, {})) == []
