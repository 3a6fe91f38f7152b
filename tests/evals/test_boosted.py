"""Attacks by boosted trees on predictions of which it is known who gave them."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.ensemble
from sklearn.metrics import balanced_accuracy_score

from unlearn.evals.mia_boosted import MiaBoosted, attack_success, sorted_probabilities

SURE, UNSURE = [0.0, 0.1, 0.9], [0.3, 0.3, 0.4]


def rows(kind, n):
    return np.array([kind] * n)


@pytest.mark.parametrize(
    ("forget", "test", "expected"),
    [((SURE, 4), (UNSURE, 9), 1), ((UNSURE, 4), (UNSURE, 9), 1 / 2), ((UNSURE, 6), (UNSURE, 2), 2 / 8),
     ((SURE, 6), (SURE, 2), 6 / 8)],
)  # fmt: skip
def test_lafs_success_by_hand(forget, test, expected):
    """Members are sure and others are not: of the forget set who is sure is found, of the test set who is not.

    Nothing is balanced: of six forgotten and two test examples, the forgotten decide.
    """
    found = attack_success(rows(SURE, 60), rows(UNSURE, 40), rows(*forget), rows(*test), seed=0)
    assert found == expected


def test_a_hundredth_of_the_pool_is_left_out_and_a_pool_has_an_end(monkeypatch):
    fitted = []

    class Watched(sklearn.ensemble.HistGradientBoostingClassifier):
        def fit(self, x, y):
            fitted.append((len(y), int(y.sum()), self.max_iter))
            return super().fit(x, y)

    monkeypatch.setattr(sklearn.ensemble, "HistGradientBoostingClassifier", Watched)
    monkeypatch.setattr("unlearn.evals.mia_boosted.SHOWN", 150)
    attack_success(rows(SURE, 500), rows(UNSURE, 150), rows(SURE, 2), rows(SURE, 2), seed=0)
    [(n, members, trees)] = fitted
    assert n == 297 and 147 <= members <= 150 and trees == 100


def test_a_number_that_is_not_finite_is_no_success():
    broken = rows([np.nan] * 3, 4)
    assert np.isnan(attack_success(rows(SURE, 60), rows(UNSURE, 40), broken, rows(SURE, 4), seed=0))


def test_probabilities_are_sorted_and_by_id(world, shuffled):
    ev = world()
    found = sorted_probabilities(ev, "unlearned", "forget")
    assert (np.diff(found, axis=1) >= 0).all() and found.sum(1) == pytest.approx(1)
    assert np.array_equal(found, sorted_probabilities(shuffled(ev), "unlearned", "forget"))


def test_the_clean_form_judges_nobody_whom_it_was_fitted_on(world):
    """The same with a loop over both halves, the classes balanced by weights of the examples."""
    ev = world()
    forget, fit, audit = (sorted_probabilities(ev, "unlearned", w) for w in ("forget", "audit_fit", "audit"))
    assert not set(ev.index("audit_fit").tolist()) & set(ev.index("audit").tolist())
    found = []
    for mine, other in ((forget[::2], forget[1::2]), (forget[1::2], forget[::2])):
        y = np.array([1] * len(mine) + [0] * len(fit))
        weights = np.where(y == 1, len(y) / (2 * len(mine)), len(y) / (2 * len(fit)))
        trees = sklearn.ensemble.HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.3, max_depth=6, max_leaf_nodes=None, min_samples_leaf=1,
            l2_regularization=1, early_stopping=False,
        ).fit(np.concatenate([mine, fit]), y, weights)  # fmt: skip
        truth = np.array([1] * len(other) + [0] * len(audit))
        found.append(balanced_accuracy_score(truth, trees.predict(np.concatenate([other, audit]))))
    laf, clean = MiaBoosted().score_of(ev)
    assert clean.value == pytest.approx(np.mean(found)) and clean.low < clean.value < clean.high
    assert laf.variant == "laf" and laf.n == len(ev.y("forget")) * 2 and "own shadow" in laf.note


def test_a_model_that_is_surer_of_the_forgotten_is_found_out(world):
    def louder(who, where, make, what=""):
        arrays = make()
        return {
            **arrays,
            "outputs": arrays["outputs"] * (50 if (who, where) == ("unlearned", "forget") else 1),
        }

    clean = MiaBoosted().score_of(replace(world(), cache=louder, _memo={}))[1]
    assert clean.value > 0.85 and abs(clean.reference - 0.5) < 0.15
