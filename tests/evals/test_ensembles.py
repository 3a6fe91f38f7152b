"""Distances between sets of models against worked values, plain loops, and what two equal sets show."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from unlearn.errors import BadValue
from unlearn.evals.epsilon import Epsilon
from unlearn.ops.ensembles import (
    CAP,
    comparator,
    epsilon,
    epsilon_of,
    epsilon_of_comparator,
    epsilon_released,
    forgetting_quality,
    klom,
    klom_gauss,
)
from unlearn.ops.shadows import iam, lira, lira_offline

U = torch.tensor([[0.0, 0, 1, 1, 2, 2, 3, 3]]).T
O = torch.tensor([[0.0, 1, 1, 1, 2, 2, 2, 3]]).T  # noqa: E741


def sets(models=8, n=30, shift=0.5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    u, o = torch.randn(models, n, generator=rng) + shift, torch.randn(models, n, generator=rng)
    u[:, 0], o[:, 0] = 1.0, 1.0  # constant
    u[:, 1] = (u[:, 1] * 2).round()  # ties
    o[:, 1] = (o[:, 1] * 2).round()
    return u, o


@pytest.mark.parametrize("bins", [4, 20])
def test_klom_by_the_worked_values(bins):
    assert float(klom(U, O, bins)) == pytest.approx(0.1438410, rel=1e-5)
    assert float(klom(U, O, bins, released=True)) == pytest.approx(0.1148897, rel=1e-5)


def test_gaussian_klom_by_the_worked_value_and_by_quadrature():
    assert float(klom_gauss(U, O)) == pytest.approx(0.0779205, rel=1e-5)
    p, q = norm(float(U.mean()), float(U.std())), norm(float(O.mean()), float(O.std()))
    x = np.linspace(-30, 30, 200_001)
    area = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
    assert float(klom_gauss(U, O)) == pytest.approx(area, rel=1e-6)


def test_klom_is_that_of_histograms_of_numpy():
    u, o = sets(60)
    found = klom(u, o)
    for k in range(u.shape[1]):
        a, b = u[:, k].double().numpy(), o[:, k].double().numpy()
        ends = (min(a.min(), b.min()), max(a.max(), b.max()))
        p, q = (np.maximum(np.histogram(v, 20, ends)[0] / len(v), 1e-5) for v in (a, b))
        assert float(found[k]) == pytest.approx(max(0.0, float((p * np.log(p / q)).sum())), abs=1e-9)
    assert float(klom(torch.zeros(9, 1), torch.ones(9, 1))) == pytest.approx(math.log(1e5), rel=1e-3)
    assert float(klom(torch.full((9, 1), 1e9), torch.full((9, 1), 200.0))) == 0, "cut at 100"


@pytest.mark.parametrize(
    ("models", "binned", "gauss"), [(50, 0.86, 0.042), (100, 0.34, 0.021), (200, 0.144, 0.0098)]
)
def test_the_floors_of_klom_are_those_that_were_simulated(models, binned, gauss):
    rng = torch.Generator().manual_seed(1)
    u, o = (torch.randn(models, 3000, generator=rng) for _ in range(2))
    assert float(klom(u, o).mean()) == pytest.approx(binned, rel=0.08)
    assert float(klom_gauss(u, o).mean()) == pytest.approx(gauss, rel=0.08)


def test_epsilon_by_the_worked_value():
    assert float(epsilon_of(torch.tensor(0.1), torch.tensor(0.2))) == pytest.approx(2.0794290, rel=1e-7)
    assert float(forgetting_quality(torch.tensor(2.0794290), 128)) == 0.0625
    rates = torch.tensor([[0.0, 0.0], [0.0, 0.3], [0.3, 0.0], [0.5, 0.5], [0.9, 0.9]])
    assert epsilon_of(*rates.T).tolist() == [math.inf, 0.0, 0.0, 0.0, 0.0]


def test_the_comparators_epsilon_takes_the_smaller_ratio():
    """log(0.89999 / 0.2) and log(0.79999 / 0.1): the challenge takes the second."""
    found = float(epsilon_of_comparator(torch.tensor(0.1), torch.tensor(0.2)))
    assert found == pytest.approx(math.log(0.89999 / 0.2), rel=1e-6) and 2**-found == pytest.approx(
        0.3525583, abs=1e-6
    )
    rates = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.5, 0.0], [0.5, 0.5], [1.0, 0.0], [0.2, 1.0]])
    expected = [math.inf, math.log(0.99999 / 0.5), math.log(0.99999 / 0.5), 0, 0, 0]
    assert epsilon_of_comparator(*rates.T).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_comparators_thresholds_by_hand():
    """Half of u and three quarters of o lie above 0: who calls those o's errs with 1/2 and 1/4."""
    u, o = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 1, 1])
    by_hand = min(math.log((1 - 1e-5 - 0.5) / 0.25), math.log((1 - 1e-5 - 0.25) / 0.5))
    assert comparator(u, o, 0, 1) == pytest.approx(by_hand, rel=1e-6) == comparator(o, u, 0, 1)
    assert comparator(u * 9 - 4, o * 9 - 4, 0, 1) == pytest.approx(by_hand, rel=1e-6), "cut at the ends"
    assert comparator(torch.zeros(4), torch.ones(4), 0, 1) == math.inf and comparator(u, u, 0, 1) == 0
    assert comparator(u / 100, o / 100, 0.5, 1) == 0, "all below the first threshold, to which they are cut"
    assert comparator(torch.tensor([0.016]), torch.tensor([0.024]), 0, 1) == 0, "the same to two digits"
    assert comparator(torch.tensor([0.014]), torch.tensor([0.016]), 0, 1) == math.inf


def test_the_comparators_quality_of_two_models_by_loops(world):
    ev = world()
    [score] = Epsilon(form="comparator").score_of(ev)
    values = {}
    for who in ("unlearned", "oracle", "original", "oracle2"):
        p = [ev.outputs(who, "forget").double().div(t).softmax(1).numpy() for t in (2, 1)]
        top = p[1].max(1)
        values[who] = [-(p[0] * np.log(p[0])).sum(1), np.log(top) - np.log(1 - top)]

    def quality(who):
        found = []
        for k, ends in enumerate(((0, 2.5), (-2.5, 10))):
            u, o = (np.clip(np.round(values[w][k], 2), *ends) for w in (who, "oracle"))
            best = 0.0
            for limit in np.linspace(*ends, 51):
                for a, b in ((u, o), (o, u)):
                    fpr, fnr = np.mean(b >= limit), 1 - np.mean(a >= limit)
                    if max(fpr, fnr) < 1 - 1e-5:
                        rates = [min(max(r, 1e-10), 1 - 1e-5 - 1e-10) for r in (fpr, fnr)]
                        best = max(best, min(math.log((1 - 1e-5 - r) / s) for r, s in (rates, rates[::-1])))
            found.append(2**-best)
        return sum(found) / 2

    assert score.value == pytest.approx(quality("unlearned"), rel=1e-6) and 0 < score.value < 1
    assert score.original == pytest.approx(quality("original"), rel=1e-6)
    assert score.floor == pytest.approx(quality("oracle2"), rel=1e-6)
    assert score.variant == "comparator" and Epsilon(form="comparator").wants() == {}


def reference(u, o, double):
    """Every set of values below, above, between or outside thresholds, with Python's numbers."""
    best, values = 0.0, sorted({*u.tolist(), *o.tolist()})
    for low, high in itertools.combinations_with_replacement([-math.inf, *values, math.inf], 2):
        if not double and low != -math.inf:
            continue
        called_u, called_o = (float(((v > low) & (v <= high)).double().mean()) for v in (u, o))
        for fpr, fnr in ((called_o, 1 - called_u), (1 - called_o, called_u)):
            if fpr < 1e-12 and fnr < 1e-12:
                return math.inf
            if fpr < 1e-12 or fnr < 1e-12:
                continue
            sides = [(1 - 1e-5 - a) / b for a, b in ((fpr, fnr), (fnr, fpr))]
            best = max([best, *(math.log(s) for s in sides if s > 0)])
    return best


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_epsilon_tries_every_threshold(double, shift):
    u, o = sets(8, 25, shift)
    found = epsilon(u, o, double)
    for k in range(u.shape[1]):
        assert float(found[k]) == pytest.approx(reference(u[:, k], o[:, k], double), rel=1e-6, abs=1e-9)
    assert float(epsilon(torch.zeros(5, 1), torch.ones(5, 1), double)) == math.inf


def test_epsilon_is_made_in_parts(monkeypatch):
    u, o = sets(8, 25)
    whole = epsilon(u, o, double=True)
    monkeypatch.setattr("unlearn.ops.ensembles.PAIRS", 700)
    assert torch.equal(epsilon(u, o, double=True), whole)


def challenge(unlearned, retrained):
    """The challenge's loops over thresholds for one example, with numpy's numbers, and its score in buckets."""
    retrain_is_positive = np.median(retrained) > np.median(unlearned)
    pos, neg = (retrained, unlearned) if retrain_is_positive else (unlearned, retrained)
    sizes = [np.ptp(pos), np.ptp(neg)]
    if min(sizes) / max(sizes) < 0.01:
        return 50.0
    peaked, wide = (neg, pos) if sizes[0] >= sizes[1] else (pos, neg)
    width, rules = min(sizes), []
    low, high = peaked.min() + width - 2, peaked.max() + 2
    for right in np.linspace(low, high, int(np.ceil((high - low) * 100))):
        left = np.linspace(right - width - 2, right - width + 2, 400)[:, None]
        rules.append([((left <= v) & (v <= right)).mean(1) for v in (peaked, wide)])
    both = np.concatenate([pos, neg])
    cuts = np.linspace(both.min(), both.max(), int(np.ceil(np.ptp(both) * 100)))[:, None]
    rules.append([(v >= cuts).mean(1) for v in (pos, neg)])
    tpr, fpr = (np.concatenate(part) for part in zip(*rules, strict=True))
    fnr = 1 - tpr
    if ((fpr == 0) & (fnr == 0)).any():
        return 50.0
    fpr, fnr = (r[(fpr > 0) & (fnr > 0)] for r in (fpr, fnr))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [np.log(1 - 1e-5 - a) - np.log(b) for a, b in ((fpr, fnr), (fnr, fpr))]
        return float(np.clip(np.nanmax(ratios), 0, 50))


@pytest.mark.parametrize("shift", [0.0, 1.0, 9.0])
def test_the_released_epsilon_is_that_of_its_loops(shift):
    rng = np.random.default_rng(3)
    u, o = rng.normal(shift, 1.5, (24, 5)), rng.normal(0, 1, (24, 5))
    u[:, 4] = 0.25  # far narrower than the oracles
    found = epsilon_released(torch.as_tensor(u), torch.as_tensor(o)).tolist()
    assert found == pytest.approx([challenge(u[:, k], o[:, k]) for k in range(5)], rel=1e-6)
    assert found[4] == CAP and all(0 < e <= CAP for e in found)
    assert epsilon_released(torch.ones(5, 1), torch.ones(5, 1)).tolist() == [0]


def test_the_released_floor_is_what_was_seen_of_six_examples():
    """0.156 at 128 models, of the released code without its error: one mean of six examples, as wide as these."""
    rng = torch.Generator().manual_seed(5)
    u, o = (torch.randn(128, 72, generator=rng) for _ in range(2))
    quality = forgetting_quality(epsilon_released(u, o), 128)
    sixes = quality.reshape(12, 6).mean(1)
    assert sixes.min() < 0.1563 < sixes.max(), sixes
    assert float(quality.mean()) == pytest.approx(0.156, abs=2 * float(quality.std()) / 6**0.5)
    exact = forgetting_quality(epsilon(u, o, double=True), 128).mean()
    single = forgetting_quality(epsilon(u, o), 128).mean()
    assert exact < quality.mean() < single, "fewer attacks than all by two thresholds, more than by one"


def test_the_released_form_of_the_metric(world):
    scores = {s.name: s for s in Epsilon(form="challenge@released", models=4).score_of(world())}
    plain = {s.name: s for s in Epsilon(models=4, double=True).score_of(world())}
    assert {s.variant for s in scores.values()} == {"challenge@released"} and scores.keys() == plain.keys()
    assert scores["epsilon/score"].value >= plain["epsilon/score"].value, (
        "all thresholds by two are at least as many attacks"
    )


@pytest.mark.parametrize(
    ("double", "models", "floor"), [(False, 64, 0.22), (True, 32, 0.089), (True, 64, 0.073)]
)
def test_the_floor_of_the_challenge_score_is_far_below_one(double, models, floor):
    rng = torch.Generator().manual_seed(2)
    u, o = (torch.randn(models, 400, generator=rng) for _ in range(2))
    eps = epsilon(u, o, double)
    assert float(forgetting_quality(eps, models).mean()) == pytest.approx(floor, rel=0.1)
    far = forgetting_quality(epsilon(u + 1.0, o, double), models)
    assert float(far.mean()) < 0.7 * floor
    mixed = torch.cat([u[: models // 2] + 1.0, u[models // 2 :]])
    assert epsilon(mixed, o, double).mean() < epsilon(u + 1.0, o, double).clamp_max(CAP).mean()


def test_no_quality_beyond_what_so_many_models_can_tell():
    assert forgetting_quality(torch.tensor([0.0, 0.4, 0.5, 4.9, 5.0, math.inf]), 128).tolist() == [
        1,
        1,
        0.5,
        2**-9,
        2**-10,
        0,
    ]
    assert forgetting_quality(torch.tensor([3.0, 3.1]), 16).tolist() == [2**-6, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda one, two: klom(one, two), "KLoM needs at least 2 models on each side, got 1 unlearned"),
        (lambda one, two: klom_gauss(two, one), "got 1 oracles; train more"),
        (lambda one, two: epsilon(one, one), "ε needs at least 2 models"),
        (lambda one, two: lira(one[0], two, torch.tensor([[True], [True]])), "got 0 that did not"),
        (lambda one, two: lira_offline(one[0], two, torch.tensor([[True], [False]])), "got 1 that did not see it"),
        (lambda one, two: iam(one[0], one[0], two[:0]), "IAM needs at least 1 models on each side, got 0 shadows"),
    ],
)  # fmt: skip
def test_too_few_models_are_refused_in_one_line(call, words):
    with pytest.raises(BadValue, match=words) as err:
        call(torch.zeros(1, 1), torch.zeros(2, 1))
    assert "\n" not in str(err.value)
