"""Metrics of spoilt examples: formulas by hand, and what they say of models whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import ttest_1samp

from unlearn import api
from unlearn.data import Resident
from unlearn.evals.canaries import exposure
from unlearn.evals.confusion import confused, matrix
from unlearn.evals.regained import bounded, regained
from unlearn.ops.stats import fieller, wilson
from unlearn.pool import Pool
from unlearn.registry import metrics
from unlearn.scenario import parse as scenario
from unlearn.sources import Relabeled
from unlearn.store import Store
from unlearn.testing.tiny_crowds import again

SPOILT = ["backdoor", "canaries", "confusion", "regained"]


def score_of(name, ev):
    return metrics.get(name)().score_of(ev)


# ---- formulas


def test_confusion_is_counted_off_the_diagonal_of_two_rows():
    counts = torch.tensor([[40, 8, 2], [10, 35, 5], [1, 3, 46]])
    assert confused(counts, 0, 1) == confused(counts, 1, 0) == (18, 0.18)
    assert confused(counts, 0, 2) == (3, 0.03)
    assert confused(counts, 1, 2) == (8, 0.08)
    y = torch.repeat_interleave(torch.arange(3), counts.sum(1))
    taken = torch.cat([torch.repeat_interleave(torch.arange(3), row) for row in counts])
    logits = torch.nn.functional.one_hot(taken, 3).float()
    assert torch.equal(matrix(y, logits), counts)


def test_exposure_by_hand_and_by_sorting():
    fresh = torch.tensor([1.0, 2.0, 3.0])
    found = exposure(torch.tensor([9.0, 2.5, 0.0, 2.0]), fresh)
    assert found.tolist() == pytest.approx([2.0, 1.0, 0.0, 2 - math.log2(2.5)])
    draw = np.random.default_rng(0)
    mine, others = draw.normal(size=9), draw.normal(size=127)
    expected = [7 - math.log2(1 + sorted([m, *others], reverse=True).index(m)) for m in mine]
    assert exposure(torch.tensor(mine), torch.tensor(others)).tolist() == pytest.approx(expected)


def test_what_is_regained_is_a_share_of_what_was_lost():
    original, oracle = torch.tensor([1.0, 0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1, 1])
    assert regained(torch.tensor([1.0, 1, 0, 0, 0]), original, oracle) == pytest.approx(0.25)
    assert regained(torch.tensor([0.0, 0, 0, 0, 0]), original, oracle) == pytest.approx(-0.25)
    assert bounded(oracle - original)
    assert not bounded(original - oracle)
    assert not bounded(torch.tensor([1.0, -1, 0, 0, 1]))


def test_the_interval_of_a_ratio_is_where_a_t_test_turns():
    draw = np.random.default_rng(1)
    top, bottom = draw.normal(0.2, 1, 60), draw.normal(0.8, 1, 60)

    def beyond(ratio):
        return ttest_1samp(top - ratio * bottom, 0).pvalue - 0.05

    ratio = top.mean() / bottom.mean()
    expected = brentq(beyond, ratio - 5, ratio), brentq(beyond, ratio, ratio + 5)
    assert fieller(torch.tensor(top), torch.tensor(bottom)) == pytest.approx(expected)
    assert ttest_1samp(top, 0).pvalue > 0.05
    assert fieller(torch.tensor(bottom), torch.tensor(top)) is None
    assert fieller(torch.ones(1), torch.ones(1)) is None


# ---- on models


@pytest.mark.parametrize("name", SPOILT)
def test_where_nothing_was_spoilt_nothing_is_known(name, world):
    (score,) = score_of(name, world())
    assert score.value is None and score.reference is None
    assert "only for data with" in score.note and "digits/" in score.note


@pytest.fixture
def spoilt(world):
    """Evidence with all test examples of other classes than 1 as spoilt ones with the label 1: `spoilt(way)`."""

    def make(way, **subjects):
        ev = world(**subjects)
        test = ev.handles["test"]
        y = torch.where(test.source.y < 2, 1 - test.source.y, test.source.y) if way == "confused" else None
        y = torch.ones_like(test.source.y) if way == "poisoned" else y
        rows = (
            test.rows[test.y < 2]
            if way == "confused"
            else test.rows[test.y != 1]
            if way == "poisoned"
            else test.rows
        )
        held = Resident(Relabeled(test.source, test.source.y if y is None else y), rows=rows)
        return again(replace(ev, request=way), handles={**ev.handles, f"{way}_test": held})

    return make


def test_a_backdoor_is_scored_by_what_is_taken_for_its_target(spoilt):
    ev = spoilt("poisoned")
    (score,) = score_of("backdoor", ev)
    taken = {}
    for who in ev.subjects:
        with torch.no_grad():
            logits = ev.subjects[who].module(torch.cat([b.x for b in ev.handles["poisoned_test"].batches(9)]))
        taken[who] = [int(row.argmax()) == 1 for row in logits]
    n = len(taken["unlearned"])
    assert (score.value, score.original, score.reference) == tuple(
        pytest.approx(sum(taken[who]) / n) for who in ("unlearned", "original", "oracle")
    )
    assert 0 < score.value < 1 and score.n == n
    assert (score.low, score.high) == pytest.approx(wilson(sum(taken["unlearned"]), n))


def test_confusion_of_a_pair_on_test_and_on_what_is_forgotten(spoilt):
    ev = spoilt("confused")
    test, forget = score_of("confusion", ev)
    y, pred = ev.y("test").tolist(), ev.outputs("unlearned", "test").argmax(1).tolist()
    count = sum((a, b) in ((0, 1), (1, 0)) for a, b in zip(y, pred, strict=True))
    n = sum(a in (0, 1) for a in y)
    assert test.value == pytest.approx(count / n) and 0 < count < n and test.n == n
    assert f"{count} of {n}" in test.note
    assert (test.low, test.high) == pytest.approx(wilson(count, n))
    assert forget.value == pytest.approx(1 - float(ev.correct("unlearned", "forget").float().mean()))
    assert [s.name for s in score_of("confusion", replace(ev, request="random"))] == ["confusion/test"]


def test_canaries_that_are_learnt_by_heart_are_exposed(spoilt, build):
    ev = spoilt("planted")
    (score,) = score_of("canaries", ev)
    assert 0 < score.value < math.log2(81) and score.low < score.value < score.high
    assert score.original != score.reference and score.n == 40 and score.unit == "bits"
    chance = np.mean(math.log2(81) - np.log2(np.arange(1, 82)))
    assert f"{chance:.1f} where ranks are random" in score.note
    assert score_of("canaries", replace(ev, request="random"))[0].value is None


def test_what_is_regained_of_models(spoilt, build):
    ev = spoilt("noisy", original=build(1.5), oracle=build(0.0))
    (score,) = score_of("regained", ev)
    acc = {who: float(ev.correct(who, "test").double().mean()) for who in ev.subjects}
    expected = (acc["unlearned"] - acc["original"]) / (acc["oracle"] - acc["original"])
    assert score.value == pytest.approx(expected) and score.low < expected < score.high
    assert score.original == 0 and score.reference == 1
    assert f"unlearned {acc['unlearned']:.1%}" in score.note
    (none,) = score_of("regained", spoilt("noisy", original=build(0.0), oracle=build(0.0)))
    assert none.value is None and "not distinguishably better" in none.note
    (blind,) = score_of("regained", spoilt("noisy", oracle=None, oracle2=None))
    assert blind.value is None and "no reference" in blind.note


def test_suites_leave_out_what_a_scenario_does_not_hold(tmp_path):
    def extra(text):
        pool = Pool(scenario(text), Store(tmp_path), torch.device("cpu"))
        return [m.name for m in api.fitting(pool, "full") if m.name in SPOILT]

    assert extra("digits") == []
    assert extra("digits/random=0.1,noise=0.1") == ["regained"]
    assert extra("digits/confused,confuse=3:5") == ["confusion", "regained"]
    assert extra("digits/poisoned,backdoor=0.05") == ["backdoor", "regained"]
    assert extra("digits/planted,canaries=20") == ["canaries", "regained"]


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("digits/poisoned=0.2,backdoor=0.1,epochs=6", "backdoor", "backdoor/success"),
        ("digits/confused,confuse=3:5,swapped=0.5,epochs=6", "confusion", "confusion/test"),
        ("digits/planted,canaries=60,epochs=15", "canaries", "canaries/exposure"),
        ("digits/noisy,noise=0.5,epochs=10", "regained", "regained"),
    ],
)
def test_the_truth_is_known_from_end_to_end(text, name, found, tmp_path):
    """Nothing unlearned is the original, and the oracle is far from it in the direction of the truth."""
    shown = ["mia", "tow", *(["iam"] if name == "canaries" else [])]
    report = api.run("none", text, store=tmp_path, device="cpu", metrics=[name, *shown])
    score = report.score(found)
    assert score.value == score.original
    better = score.reference - score.original if name == "regained" else score.original - score.reference
    assert better > (1 if name == "canaries" else 0.2), score
    assert report.score("tow").value < 1
    if name in ("canaries", "regained"):  # held-out ones have such labels too, and no model saw them
        auc = report.score("mia/loss/auc")
        assert auc.value > 0.6 > auc.reference
    if name == "canaries":
        assert report.score("iam/forget").value < 0.5 < report.score("iam/forget").reference
