"""Representation metrics against worked values, their definitions written out, and scikit-learn."""

from dataclasses import replace

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from unlearn.data import Resident
from unlearn.evals.hlr import Hlr
from unlearn.metric import Evidence, View
from unlearn.ops.representations import cka, cka_debiased, cka_minibatch, hlr, knn_accuracy
from unlearn.sources import Arrays


def features(n=60, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_by_the_worked_value():
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    y = torch.tensor([[2.0, 0], [0, 1], [2, 1], [0, 0]])
    assert cka(x, y) == pytest.approx(0.8574929, rel=1e-6)


@pytest.mark.parametrize("of", [cka, cka_debiased])
def test_rotation_and_scale_change_nothing_and_another_shape_does(of):
    x = features()
    turn = torch.linalg.qr(features(5, 5, 1)).Q
    assert of(x, 3 * x @ turn + 7) == pytest.approx(1.0, rel=1e-9)
    assert of(x, x * torch.tensor([1.0, 1, 1, 1, 9])) < 0.9
    assert of(x, features(60, 7, 2)) == pytest.approx(of(features(60, 7, 2), x), rel=1e-9)


def test_debiased_by_the_definition_and_about_zero_for_strangers():
    x, y = features(30), features(30, 4, 3)

    def hsic(a, b):
        n = len(a)
        k, m = (f @ f.T * (1 - torch.eye(n, dtype=torch.float64)) for f in (a, b))
        one = torch.ones(n, dtype=torch.float64)
        inner = torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (inner - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    expected = float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())
    assert cka_debiased(x, y) == pytest.approx(expected, rel=1e-9)
    many = [(features(50, 40, s), features(50, 40, 100 + s)) for s in range(20)]
    assert (
        abs(sum(cka_debiased(a, b) for a, b in many) / 20) < 0.03 < 0.3 < sum(cka(a, b) for a, b in many) / 20
    )


def test_small_batches_make_cka_large():
    x, y = features(512, 20), features(512, 20, 4)
    assert cka_minibatch(x, y, 512) == pytest.approx(cka(x, y)) and cka_minibatch(x, y, 32) > cka(x, y) + 0.2


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_vote_as_in_scikit_learn(k):
    train, x = features(200), features(80, 5, 5)
    labels, y = (
        train[:, 0].gt(0).long() + 2 * train[:, 1].gt(0).long(),
        x[:, 0].gt(0).long() + 2 * x[:, 1].gt(0).long(),
    )
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, labels).score(x, y)
    assert knn_accuracy(train, labels, x, y, k) == pytest.approx(theirs) and theirs > 0.7


def test_neighbours_in_parts(monkeypatch):
    train, x = features(50), features(30, 5, 6)
    labels, y = train[:, 0].gt(0).long(), x[:, 0].gt(0).long()
    whole = knn_accuracy(train, labels, x, y)
    monkeypatch.setattr("unlearn.ops.representations.ROWS", 7)
    assert knn_accuracy(train, labels, x, y) == whole


def told(losses):
    """Logits of two classes, the first of which is true, of these losses."""
    p = torch.tensor(losses, dtype=torch.float64).neg().exp()
    return torch.stack([(p / (1 - p)).log(), torch.zeros_like(p)], 1)


def test_the_metric_composes_what_was_worked_by_hand(build):
    """Accuracy: forget 3/4, retain and test 2/4, against 1 each; attack: area 3/4 (A.3) against 1/2.

    Features: 5/√34 alike on the forget set (A.10), 10/√164 on the retain set; half of the neighbours right against all.
    """
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    near = torch.cat([right.repeat(5, 1), up.repeat(5, 1)])
    flat = told([0.3] * 4)
    left = {
        "forget": (told([0.1, 0.2, 0.9, 0.4]), x * torch.tensor([2.0, 1.0])),
        "retain": (told([0.3, 0.3, 1.0, 2.0]), x * torch.tensor([3.0, 1.0])),
        "test": (told([0.3, 1.2, 0.8, 0.5]), torch.cat([right, up, right, up])),
        "fit": (told([0.3] * 10), near),
    }
    oracle = {
        "forget": (flat, x),
        "retain": (flat, x),
        "test": (flat, right.repeat(4, 1)),
        "fit": (told([0.3] * 10), near),
    }
    said = {"original": left, "unlearned": left, "oracle": oracle, "oracle2": oracle}
    labels = {where: torch.zeros(4, dtype=torch.long) for where in ("forget", "retain", "test")}
    labels["fit"] = torch.tensor([0] * 5 + [1] * 5)
    handles = {where: Resident(Arrays(torch.zeros(len(y), 6), y)) for where, y in labels.items()}
    ev = Evidence({who: build() for who in said}, handles, {"audit": View("test", torch.arange(4))},
                  cache=lambda who, where, make, what="": dict(zip(("outputs", "features"), said[who][where], strict=True)))  # fmt: skip
    [score] = Hlr().score_of(ev)
    agl, agr = 3 / 4 * 2 / 4 * 2 / 4 * (1 - (3 / 4 - 1 / 2)), 5 / 34**0.5 * 10 / 164**0.5 * (1 - (1 - 1 / 2))
    assert score.value == pytest.approx(2 * agl * agr / (agl + agr), rel=1e-9) == score.original
    assert score.floor == pytest.approx(1) and score.variant == "reconstructed"
    [unattacked] = Hlr().score_of(replace(ev, views={"audit": View("test", torch.arange(0))}, _memo={}))
    agl = 3 / 4 * 2 / 4 * 2 / 4
    assert unattacked.value == pytest.approx(2 * agl * agr / (agl + agr), rel=1e-9), (
        "no held-out examples to attack with"
    )


def test_hlr_by_the_worked_value():
    found = hlr(torch.tensor([0.02, -0.01, 0.03]), torch.tensor([0.10, 0.05]))
    assert found == pytest.approx(0.8959836, rel=1e-6)
    assert hlr(torch.tensor([1.0]), torch.tensor([1.0])) == 0
