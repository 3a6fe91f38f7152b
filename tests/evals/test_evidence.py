"""Every registered metric on small real models: what must hold whatever its formula is."""

import json
import math

import pytest
import torch

from unlearn.registry import metrics, offers
from unlearn.score import Aim

WITHOUT_INTERVAL = {
    "collapse": "a flag", "memory": "a cost", "read": "a cost", "run-time": "a cost", "relearn": "a count of steps",
    "weight-distance": "of weights, not of examples", "per-class": "a largest value; its classes are in the table",
    "avg-gap": "its columns have intervals", "mia-logistic": "parity", "mia-svc": "parity",
    "mia-grid": "parity",
}  # fmt: skip
NAMES = [n for n in metrics.names() if metrics.listing(n).needs in ("", *offers("classifier"))]
IDEAL = {
    "activation-distance/l1": 0, "activation-distance/l2": 0, "agreement/forget": 1, "agreement/test": 1,
    "avg-gap": 0, "js/forget": 0, "js/test": 0, "tow": 1, "weight-distance/oracle": 0,
}  # fmt: skip


@pytest.fixture(params=NAMES)
def metric(request):
    return metrics.get(request.param)()


def by_name(scores):
    return {s.name: s for s in scores}


@pytest.mark.parametrize("removed", [(), (2,)])
def test_scores_are_named_and_can_be_stored(metric, world, removed):
    for score in metric.score_of(world(removed)):
        assert score.metric == metric.name
        assert score.name.partition("/")[0] == metric.name
        assert score.n is None or score.n > 0
        json.dumps(score.model_dump(mode="json"), allow_nan=False)
        assert score.value is not None or score.note
        if score.interval.startswith(("wilson", "t ")):
            assert score.low <= score.value <= score.high


@pytest.mark.parametrize("removed", [(), (2,)])
def test_what_is_estimated_from_examples_has_an_interval(metric, world, removed):
    ev = world(removed)
    for score in metric.score_of(ev):
        if score.value is not None and metric.name not in WITHOUT_INTERVAL:
            assert score.low < score.high, score.name
            assert "95 %" in score.interval, score.name


def test_the_summary_is_one_short_sentence(metric):
    summary = metrics.listing(metric.name).summary
    assert summary.endswith(".") and len(summary) < 95


def test_a_model_equal_to_the_oracle_gets_the_ideal_value(metric, world, build):
    ev = world(unlearned=build(0.2))
    for score in metric.score_of(ev):
        if score.reference is not None:
            assert score.value == score.reference, score.name
            assert score.gap == 0
        elif score.name in IDEAL:
            assert score.value == pytest.approx(IDEAL[score.name], abs=1e-12), score.name
            assert score.original != score.value, "the ideal must not be what every model gets"


def test_the_floor_is_what_two_oracles_have_between_them(metric, world, build):
    ev = world()
    swapped = world(unlearned=build(0.25))
    for score, other in zip(metric.score_of(ev), metric.score_of(swapped), strict=True):
        if score.floor is not None and not metric.wants():  # floors of crowds are theirs
            expected = other.value if score.reference is None else abs(other.value - other.reference)
            assert score.floor == pytest.approx(expected, abs=1e-12), score.name


def test_the_order_of_the_examples_changes_nothing(metric, world, shuffled):
    ev = world((2,))
    for score, other in zip(metric.score_of(ev), metric.score_of(shuffled(ev)), strict=True):
        assert score.name == other.name
        for value in ("value", "original", "reference", "floor"):
            assert (getattr(score, value) is None) == (getattr(other, value) is None)
            if getattr(score, value) is None:
                continue
            assert getattr(score, value) == pytest.approx(getattr(other, value), rel=1e-5, abs=1e-7), (
                score.name
            )


def test_the_same_evidence_gives_the_same_scores(metric, world):
    assert metric.score_of(world()) == metric.score_of(world())


def test_without_an_oracle_nothing_pretends_to_have_one(metric, world):
    for score in metric.score_of(world(oracle=None, oracle2=None)):
        assert score.reference is None and score.gap is None and (score.floor is None or metric.wants())
        if score.aim is Aim.MATCH:
            assert "no reference: cannot tell" in score.note or score.value is None
        if score.name in IDEAL:
            assert score.value is None


def test_models_and_global_randomness_stay_as_they_are(metric, world):
    ev = world()
    before = {who: {n: t.clone() for n, t in s.module.state_dict().items()} for who, s in ev.subjects.items()}
    state = torch.get_rng_state()
    metric.score_of(ev)
    assert torch.equal(torch.get_rng_state(), state)
    for who, subject in ev.subjects.items():
        assert all(torch.equal(t, before[who][n]) for n, t in subject.module.state_dict().items())
        assert all(p.grad is None for p in subject.module.parameters())


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_destroyed_model_is_still_scored(metric, world, build, fill):
    broken = build()
    with torch.no_grad():
        broken.module[2].weight.fill_(fill)
    for score in metric.score_of(world((2,), unlearned=broken)):
        json.dumps(score.model_dump(mode="json"), allow_nan=False)


def test_all_metrics_together_cost_one_pass_for_each_model_and_set(world):
    ev = world()
    assert len(NAMES) >= 10
    for name in NAMES:
        metrics.get(name)().score_of(ev)
    assert set(ev.passes.values()) == {1}
    assert set(ev.passes) == {
        (who, where) for who in ev.subjects for where in ("forget", "retain", "fit", "test")
    }
