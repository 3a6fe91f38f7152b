"""The exact threshold attack against brute force, scikit-learn and its own symmetries."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from unlearn.ops.membership import svc_outsiders, threshold_accuracy
from unlearn.ops.stats import wilson
from unlearn.ops.threshold import auc, auc_interval, best_rule, tpr_at
from unlearn.report.interval import t_interval

FORGET, HELD = np.array([0.1, 0.2, 0.9, 0.4]), np.array([0.3, 1.2, 0.8, 0.5])


def draws():
    """Pairs of samples: continuous, with many ties, constant, with infinities, of unequal sizes."""
    rng = np.random.default_rng(0)
    yield rng.normal(0.5, 1, 60), rng.normal(0, 1, 35)
    yield rng.integers(0, 4, 50).astype(float), rng.integers(1, 6, 70).astype(float)
    yield np.ones(5), np.ones(9)
    yield np.array([np.inf, 1.0, 1.0, 2.0]), np.array([-np.inf, 1.0, 3.0])
    yield np.array([2.0]), np.array([1.0, 2.0, 3.0])


def brute_force(members, others):
    """Largest balanced accuracy over every cut between or beside values, in both directions."""
    best = 0.5  # of calling all or none a member
    for cut in np.concatenate([members, others]):
        found = ((members >= cut).mean() + (others < cut).mean()) / 2
        best = max(best, found, 1 - found)
    return best


def test_worked_example():
    assert auc(-FORGET, -HELD) == 0.75
    assert best_rule(-FORGET, -HELD).balanced_accuracy(-FORGET, -HELD) == 0.75


@pytest.mark.parametrize("members, others", list(draws()))
def test_auc_equals_scikit_learns(members, others):
    y = np.repeat([1, 0], [len(members), len(others)])
    # scikit-learn takes no infinities: ranks keep the order and the ties
    ranks = np.unique(np.concatenate([members, others]), return_inverse=True)[1]
    assert auc(members, others) == pytest.approx(roc_auc_score(y, ranks), abs=1e-12)


@pytest.mark.parametrize("members, others", list(draws()))
def test_best_rule_equals_brute_force(members, others):
    rule = best_rule(members, others)
    assert rule.balanced_accuracy(members, others) == pytest.approx(brute_force(members, others), abs=1e-12)


@pytest.mark.parametrize("members, others", list(draws()))
def test_auc_of_the_negated_score_is_the_complement(members, others):
    assert auc(members, others) + auc(-members, -others) == pytest.approx(1, abs=1e-12)
    assert auc(members, others) + auc(others, members) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("members, others", list(draws()))
def test_tpr_equals_scikit_learns_roc_curve(members, others, rate):
    y = np.repeat([1, 0], [len(members), len(others)])
    ranks = np.unique(np.concatenate([members, others]), return_inverse=True)[1]
    fpr, tpr, _ = roc_curve(y, ranks, drop_intermediate=False)
    assert tpr_at(members, others, rate) == pytest.approx(tpr[fpr <= rate].max(), abs=1e-12)


def test_members_below_are_found_too():
    rule = best_rule(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    assert not rule.above
    assert rule.threshold == 1.5
    assert rule(np.array([1.4, 1.6])).tolist() == [True, False]


def test_balanced_accuracy_equals_scikit_learns():
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 30), rng.normal(0, 1, 90)
    rule = best_rule(members, others)
    called = rule(np.concatenate([members, others])).astype(int)
    expected = balanced_accuracy_score(np.repeat([1, 0], [30, 90]), called)
    assert rule.balanced_accuracy(members, others) == pytest.approx(expected, abs=1e-12)


def test_neighbouring_floats_are_told_apart():
    low = np.array([1.0])
    high = np.nextafter(low, 2)
    assert best_rule(high, low).balanced_accuracy(high, low) == 1.0


def test_fitted_threshold_is_not_rewarded_for_chance():
    rng = np.random.default_rng(1)
    found = [threshold_accuracy(*(rng.normal(size=40) for _ in range(3))) for _ in range(200)]
    optimistic = [
        best_rule(a, b).balanced_accuracy(a, b) for a, b in (rng.normal(size=(2, 40)) for _ in range(200))
    ]
    assert abs(np.mean(found) - 0.5) < 0.015
    assert np.mean(optimistic) > 0.57


def test_two_fold_accuracy_by_hand():
    members, fit, others = np.array([5.0, 6.0, 7.0, 8.0]), np.array([0.0, 1.0]), np.array([0.0, 6.4])
    # both halves cut between 1 and 5 or 6: every member and the 0 are right, the 6.4 is not
    assert threshold_accuracy(members, fit, others) == 0.75


def test_nan_is_passed_on():
    bad = np.array([np.nan, 1.0])
    assert np.isnan(auc(bad, HELD)) and np.isnan(tpr_at(bad, HELD, 0.1))
    assert np.isnan(threshold_accuracy(bad, HELD, HELD)) and np.isnan(auc_interval(bad, HELD, 0)).all()
    assert np.isnan(svc_outsiders(bad[:, None], HELD[:, None], HELD[:, None]))


def test_interval_of_the_auc_covers_the_truth():
    # for unit normals one apart the AUC is Φ(1 / √2)
    truth, rng = 0.7602499389065233, np.random.default_rng(2)
    hits = 0
    for seed in range(100):
        low, high = auc_interval(rng.normal(1, 1, 80), rng.normal(0, 1, 80), seed)
        hits += low <= truth <= high
    assert 87 <= hits <= 100


def test_wilson_of_the_worked_examples():
    assert wilson(5, 1000) == pytest.approx((0.00214, 0.01165), abs=5e-6)
    assert wilson(108, 142) == pytest.approx((0.68410, 0.82330), abs=5e-6)
    assert wilson(0, 142) == pytest.approx((0, 0.02634), abs=5e-6)


def test_interval_over_seeds_of_the_worked_example():
    assert t_interval([0.912, 0.905, 0.921, 0.917, 0.908]) == pytest.approx((0.9126, 0.00808), abs=5e-6)
