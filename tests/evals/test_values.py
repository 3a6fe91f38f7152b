"""Metrics of regressors against hand-worked values, loops, scipy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, wasserstein_distance
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error, r2_score
from sklearn.svm import SVC

from unlearn.crowds import answers
from unlearn.data import Resident
from unlearn.evals.coverage import half_width, pinball
from unlearn.evals.error import r2
from unlearn.evals.wasserstein import w1
from unlearn.metric import Evidence, View
from unlearn.ops.shadows import lira_errors
from unlearn.registry import metrics, offers
from unlearn.sources import Arrays
from unlearn.subjects.regressor import Regressor

SIZES = {"forget": 30, "retain": 120, "fit": 60, "test": 60}
SHIFT, SCALE = 100.0, 20.0
LOW = -0.5  # targets below it are the range that is forgotten
OURS = [n for n in metrics.names() if metrics.listing(n).needs == "Regresses" and n != "lira-error"]
WITHOUT_INTERVAL = {"anamnesis/epochs", "anamnesis/ain", "mia-error", "coverage/half-width"}


def net():
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def model(noise):
    rng = torch.Generator().manual_seed(1)
    module = net()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=rng))
        for p in module.parameters():
            p.add_(noise * torch.randn(p.shape, generator=rng))
    return Regressor(module, build=net, shift=SHIFT, scale=SCALE, unit="points")


@pytest.fixture
def world():
    """Evidence of regressors on standardised targets; call it with models to change."""
    rng = torch.Generator().manual_seed(2)
    n = sum(SIZES.values())
    x = torch.randn(n, 5, generator=rng)
    with torch.no_grad():
        y = model(0.0).module(x).squeeze(1) + 0.3 * torch.randn(n, generator=rng)
    rows = torch.arange(n).split(list(SIZES.values()))
    handles = {name: Resident(Arrays(x, y), rows=r) for name, r in zip(SIZES, rows, strict=True)}
    views = {}
    for base, view in (("test", "audit"), ("fit", "audit_fit")):
        views[view] = View(base, (handles[base].y < LOW).nonzero().flatten())
    views["test_forget"] = views["audit"]
    views["test_retain"] = View("test", (handles["test"].y >= LOW).nonzero().flatten())

    def make(**subjects):
        moved = {"original": 0.0, "unlearned": 0.3, "oracle": 0.2, "oracle2": 0.25}
        chosen = {**{who: model(m) for who, m in moved.items()}, **subjects}
        chosen = {who: s for who, s in chosen.items() if s is not None}
        return Evidence(chosen, handles, views, "range")

    return make


def told(ev, who, where):
    """Predictions and targets of a set in points, in float64, by numpy alone."""
    view = ev.views.get(where)
    handle = ev.handles[view.base if view else where]
    rows = handle.rows[view.rows] if view else handle.rows
    layers = [m for m in ev.subjects[who].module if isinstance(m, torch.nn.Linear)]
    (a, b), (c, d) = ([t.detach().numpy().astype(float) for t in (m.weight, m.bias)] for m in layers)
    x, y = (t[rows].numpy().astype(float) for t in (handle.source.x, handle.source.y))
    return (np.tanh(x @ a.T + b) @ c.T + d)[:, 0] * SCALE + SHIFT, y * SCALE + SHIFT


def scores(name, ev):
    return {s.name: s for s in metrics.get(name)().score_of(ev)}


def test_errors_are_those_of_scikit_learn_in_the_unit_of_the_targets(world):
    ev = world()
    found = scores("error", ev)
    references = {
        "mae": mean_absolute_error,
        "rmse": lambda y, out: math.sqrt(mean_squared_error(y, out)),
        "r2": r2_score,
    }
    assert {n.split("/")[1] for n in found} == {"forget", "retain", "test_forget", "test_retain"}
    for name, score in found.items():
        _, where, kind = name.split("/")
        for who, value in (
            ("unlearned", score.value),
            ("original", score.original),
            ("oracle", score.reference),
        ):
            out, y = told(ev, who, where)
            assert value == pytest.approx(references[kind](y, out), rel=1e-4), (name, who)
        assert score.unit == ("" if kind == "r2" else "points")
        assert score.low <= score.value <= score.high


def test_errors_of_equal_targets_explain_no_variance(world):
    ev = world()
    ev.views["test_forget"] = View("test", ev.views["test_forget"].rows[:1])
    score = scores("error", ev)["error/test_forget/r2"]
    assert score.value is None and "no variance" in score.note


def test_r2_of_several_values_is_averaged():
    y, out = (
        torch.tensor([[1.0, 4.0], [2.0, 6.0], [4.0, 5.0]]),
        torch.tensor([[1.5, 4.0], [2.0, 5.0], [3.0, 5.5]]),
    )
    assert r2(out, y) == pytest.approx(r2_score(y.numpy(), out.numpy()))


def test_wasserstein_is_scipys_and_the_fixture_of_the_specification(world):
    assert w1(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[5.0], [6.0], [8.0]])) == 5.0
    ev = world()
    score = scores("wasserstein", ev)["wasserstein/forget"]
    outs = {who: told(ev, who, "forget")[0] for who in ev.subjects}
    assert score.value == pytest.approx(wasserstein_distance(outs["unlearned"], outs["oracle"]), rel=1e-4)
    assert score.original == pytest.approx(wasserstein_distance(outs["original"], outs["oracle"]), rel=1e-4)
    assert score.floor == pytest.approx(wasserstein_distance(outs["oracle2"], outs["oracle"]), rel=1e-4)
    assert score.low <= score.value <= score.high and score.unit == "points"


def test_the_gap_of_predictions_is_a_mean_over_examples(world):
    ev = world()
    for where in ("forget", "test_retain"):
        score = scores("prediction-gap", ev)[f"prediction-gap/{where}"]
        apart = np.abs(told(ev, "unlearned", where)[0] - told(ev, "oracle", where)[0])
        assert score.value == pytest.approx(apart.mean(), rel=1e-4)


def test_the_paper_attack_is_a_support_vector_classifier_on_absolute_errors(world):
    ev = world()
    score = scores("mia-error", ev)["mia-error"]
    for who, value in (("unlearned", score.value), ("original", score.original), ("oracle", score.reference)):
        errors = {w: np.abs(np.subtract(*told(ev, who, w)))[:, None] for w in ("retain", "test", "forget")}
        n = len(errors["test"])
        x, y = np.concatenate([errors["retain"][:n], errors["test"]]), np.repeat([1, 0], n)
        member = SVC(C=3, gamma="auto", kernel="rbf", random_state=0).fit(x, y).predict(errors["forget"])
        assert value == pytest.approx(member.mean(), abs=0.04)  # float32 errors may lie on the other side


def test_intervals_are_split_conformal(world):
    ev = world()
    out, y = told(ev, "unlearned", "fit")
    half = np.sort(np.abs(out - y))[math.ceil(61 * 0.9) - 1]
    found = scores("coverage", ev)
    assert found["coverage/half-width"].value == pytest.approx(half, rel=1e-4)
    for where in ("test_forget", "test_retain"):
        out, y = told(ev, "unlearned", where)
        assert found[f"coverage/{where}"].value == pytest.approx((np.abs(out - y) <= half).mean(), abs=1e-9)
        ends = [(0.05, out - half), (0.95, out + half)]
        expected = np.mean([mean_pinball_loss(y, end, alpha=tau) for tau, end in ends])
        assert found[f"coverage/{where}/pinball"].value == pytest.approx(expected, rel=1e-4)


def test_intervals_hold_what_they_promise_where_all_examples_are_alike():
    rng = torch.Generator().manual_seed(0)
    held = []
    for _ in range(400):
        errors = torch.randn(40, generator=rng)
        held.append((errors[20:].abs() <= half_width(errors[:20], 0.1)).double().mean())
    assert float(torch.stack(held).mean()) == pytest.approx(
        19 / 21, abs=0.01
    )  # k / (n + 1), k = ceil(21 · 0.9)


def test_too_few_examples_promise_nothing(world):
    assert half_width(torch.arange(5.0), 0.1) == math.inf
    assert pinball(torch.tensor([3.0]), 1.0, 0.1).tolist() == pytest.approx([(0.95 * 2 + 0.05 * 4) / 2])


def constant(value):
    """Says one value of everything, by one weight."""
    module = torch.nn.Sequential(torch.nn.Linear(5, 1))
    with torch.no_grad():
        module[0].weight.zero_().requires_grad_(False)
        module[0].bias.fill_(value)
    return Regressor(module, error="absolute")


def test_the_released_anamnesis_index_has_a_reference_that_has_learnt_already(world):
    """Adam on |b| goes a step size at a time: from 1.0 to at most 0.105 in nine steps of 0.1, from 0.55 in five.

    The oracle takes nine in the first row. In the second it starts where it is, and the least that is counted is one.
    """
    ev = world(**{who: constant(b) for who, b in (("original", 0.1), ("unlearned", 0.55), ("oracle", 1.0), ("oracle2", 1.0))})  # fmt: skip
    ev.handles["forget"].source.y.zero_()
    knobs = {"lr": 0.1, "batch_size": 30, "cap": 40}
    [score] = metrics.get("anamnesis")(**knobs, form="in-place@released").score_of(ev)
    assert score.original == pytest.approx(1 / 9) and score.value == 5 / 1
    assert score.variant == "in-place@released" and "9 steps in the first row and 1 more" in score.note
    left = [ev.subjects[who].module[0].bias.detach() for who in ("unlearned", "oracle")]
    assert torch.cat(left).tolist() == pytest.approx([0.55, 1]), "what is displayed has learnt nothing"
    copies = {s.name: s for s in metrics.get("anamnesis")(**knobs).score_of(ev)}["anamnesis/ain"]
    assert copies.value == pytest.approx((5 + 0.01) / (9 + 0.01)), "what the method left, with a fresh oracle"
    assert (
        metrics.get("anamnesis")(form="in-place@released").score_of(world(oracle=None, oracle2=None))[0].value
        is None
    )


def test_relearning_copies_the_models_and_counts_epochs_by_a_plain_loop(world):
    ev = world()
    before = {who: [p.clone() for p in s.module.parameters()] for who, s in ev.subjects.items()}
    metric = metrics.get("anamnesis")(lr=0.01, cap=20, batch_size=64)
    found = {s.name: s for s in metric.score_of(ev)}
    assert all(
        torch.equal(p, q)
        for who, s in ev.subjects.items()
        for p, q in zip(s.module.parameters(), before[who], strict=True)
    )
    x, y = (
        t[ev.handles["forget"].rows] for t in (ev.handles["forget"].source.x, ev.handles["forget"].source.y)
    )
    y = y[:, None]

    def error(module):
        with torch.no_grad():
            return (module(x) - y).abs().mean().item()

    target = 1.05 * error(ev.subjects["original"].module)

    def epochs(module):
        opt = torch.optim.Adam(module.parameters(), 0.01)
        for epoch in range(20):
            if error(module) <= target:
                return epoch
            opt.zero_grad()
            (module(x) - y).square().mean().backward()
            opt.step()
        return 20

    r = {who: epochs(s.clone().module) for who, s in ev.subjects.items()}
    score = found["anamnesis/epochs"]
    assert (score.value, score.reference, score.original) == (r["unlearned"], r["oracle"], 0)
    assert r["oracle"] > 0
    assert found["anamnesis/ain"].value == pytest.approx((r["unlearned"] + 0.01) / (r["oracle"] + 0.01))


def test_the_index_of_one_row_does_not_depend_on_the_rows_before(world):
    ev = world()
    first = scores("anamnesis", ev)
    assert scores("anamnesis", ev) == first


def test_the_likelihood_of_an_error_is_that_of_two_tails():
    rng = np.random.default_rng(0)
    pool, target = rng.normal(0.3, 0.8, (12, 5)), np.array([0.0, 0.2, -0.5, 2.0, -7.0])
    inside = rng.random((12, 5)) < 0.5
    found = lira_errors(torch.tensor(target), torch.tensor(pool), torch.tensor(inside)).numpy()
    for k, e in enumerate(target):
        out = pool[~inside[:, k], k]
        fitted = norm(out.mean(), out.std(ddof=1))
        expected = np.logaddexp(fitted.logcdf(-abs(e)), fitted.logsf(abs(e)))
        assert found[k] == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(0.0, abs=1e-12) and found[4] < -10


def test_the_attack_on_errors_finds_what_only_one_model_learnt_by_heart(world):
    """Errors of the attacked model vanish on the forget set; everything else is drawn from one distribution."""
    rng = np.random.default_rng(1)
    drawn = {w: rng.normal(0, 1, (17, n)) for w, n in SIZES.items()}
    drawn["forget"][0] *= 0.1
    rows = {w: ~torch.zeros(16, n, dtype=torch.bool) for w, n in SIZES.items()}
    members, others = (
        lira_errors(*(torch.tensor(drawn[w][part]) for part in (0, slice(1, None))), ~rows[w], True)
        for w in ("forget", "test")
    )
    assert (members[:, None] > others).double().mean() > 0.85


def test_a_crowd_of_regressors_answers_with_signed_errors(world):
    ev = world()
    found = answers(ev.subjects["unlearned"], ev.handles["test"])
    out, y = told(ev, "unlearned", "test")
    np.testing.assert_allclose(found["margins"].numpy(), (out - y) / SCALE, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_what_is_estimated_from_examples_has_an_interval(name, world):
    for score in metrics.get(name)().score_of(world()):
        assert score.value is not None
        if score.name not in WITHOUT_INTERVAL:
            assert score.low < score.high and "95 %" in score.interval, score.name


@pytest.mark.parametrize("name", OURS)
def test_a_model_equal_to_the_oracle_gets_its_values(name, world):
    for score in metrics.get(name)().score_of(world(unlearned=model(0.2))):
        if score.reference is not None:
            assert score.gap == 0, score.name
        elif score.name.startswith(("wasserstein", "prediction-gap")):
            assert score.value == 0 and score.original > 0


@pytest.mark.parametrize("name", OURS)
def test_a_destroyed_model_is_still_scored(name, world):
    broken = model(0.0)
    with torch.no_grad():
        broken.module[2].weight.fill_(math.nan)
    for score in metrics.get(name)().score_of(world(unlearned=broken)):
        assert score.value is None or math.isfinite(score.value)
        assert score.value is not None or score.note


def test_metrics_of_values_refuse_classifiers_in_one_line(world):
    assert set(OURS) >= {"error", "wasserstein", "prediction-gap", "mia-error", "coverage", "anamnesis"}
    assert "Regresses" in offers("regressor") and "Regresses" not in offers("classifier")
