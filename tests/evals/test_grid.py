"""The attacks of DUCK's and SCAR's tables: what their F1 is, and what unequal sides do to it."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from unlearn.evals.mia_grid import MiaGrid, attacked, f1

TRUTH, CALLED = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0])


def rng(k=0):
    return np.random.default_rng(k)


@pytest.mark.parametrize(("form", "stated"), [("released", 0.6), ("binary", 0.5), ("macro", 0.58333)])
def test_f1_by_the_worked_values(form, stated):
    assert f1(TRUTH, CALLED, form) == pytest.approx(stated, abs=5e-6)


def test_the_released_f1_is_the_accuracy():
    for k in range(20):
        truth, called = rng(k).integers(0, 2, (2, 30))
        assert f1(truth, called, "released") == pytest.approx((truth == called).mean())


@pytest.mark.parametrize("removal", [True, False])
@pytest.mark.parametrize("name", ["duck", "scar"])
def test_sides_that_lie_apart_are_told_apart_in_every_form(name, removal):
    forget, others = rng().normal(0, 0.1, (40, 1)), rng(1).normal(3, 0.1, (40, 1))
    for form in ("macro", "binary", "released"):
        assert attacked(forget, others, name, form, removal, rng()) == 1


def test_released_scar_says_which_side_has_more():
    """Where nothing can be told apart: 90 forgotten for 30 held-out ones make 3/4; weighed or equal sides do not.

    The features are a coarse grid, so that no support vector can single out an example.
    """
    forget, others = np.tile([[0.0], [1.0], [2.0]], (60, 1)), np.tile([[0.0], [1.0], [2.0]], (10, 1))
    found = {form: attacked(forget, others, "scar", form, True, rng()) for form in ("released", "macro")}
    assert found["released"] == 18 / (18 + 6) and found["macro"] < 0.6
    assert attacked(forget[:30], others, "scar", "released", False, rng()) < 0.75
    assert attacked(forget, others, "duck", "released", True, rng()) < 0.75


def test_the_released_attack_by_a_loop_over_the_grid(world):
    """SCAR's on the same draw, with the classifier that the grid search finds, without weights of the sides."""
    ev = world((2,))
    draws, found = 3, []
    for k in range(draws):
        draw = np.random.default_rng([ev.seed, k])
        sides = [
            draw.permutation(ev.outputs("unlearned", w)[ev.index(w).argsort()].double().softmax(1).numpy())
            for w in ("forget", "audit")
        ]
        sides[0] = sides[0][: 3 * len(sides[1])]
        cuts = [int(0.8 * len(s)) for s in sides]
        x = np.concatenate([s[:c] for s, c in zip(sides, cuts, strict=True)])
        y = np.repeat([0, 1], cuts)
        grid = GridSearchCV(SVC(), {"C": [1, 5, 10, 100], "gamma": [1, 0.1, 0.01], "tol": [1e-4]}, cv=3)
        called = grid.fit(x, y).predict(np.concatenate([s[c:] for s, c in zip(sides, cuts, strict=True)]))
        truth = np.repeat([0, 1], [len(s) - c for s, c in zip(sides, cuts, strict=True)])
        found.append((called == truth).mean())
    duck, scar = MiaGrid(form="released", repeats=draws).score_of(ev)
    assert scar.value == pytest.approx(np.mean(found), abs=1e-9)
    assert (duck.variant, scar.variant) == ("released", "released") and "parity" in duck.note


def test_few_examples_are_refused(world):
    ev = world((2,))
    ev.views["audit"].rows.resize_(5)
    assert all(s.value is None and "fewer than 20" in s.note for s in MiaGrid().score_of(ev))


def test_a_number_that_is_not_finite_is_no_score(world, build):
    import torch

    broken = build(0.3)
    with torch.no_grad():
        next(broken.module.parameters()).fill_(torch.nan)
    assert all(s.value is None and s.note for s in MiaGrid(repeats=1).score_of(world(unlearned=broken)))
