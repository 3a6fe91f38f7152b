"""Each metric's pure function against worked values and well-known libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torchmetrics.functional.classification import multiclass_calibration_error

from unlearn.evals.accuracy import accuracy
from unlearn.evals.agreement import agreement
from unlearn.evals.aus import aus
from unlearn.evals.avg_gap import avg_gap
from unlearn.evals.collapse import collapsed
from unlearn.evals.ece import ece
from unlearn.evals.entropy import beyond, w1
from unlearn.evals.h_mean import h_mean
from unlearn.evals.nomus import indiscernibility, nomus
from unlearn.evals.per_class import class_drops
from unlearn.evals.relearn import ain
from unlearn.evals.tow import tow
from unlearn.evals.weight_distance import weight_distance
from unlearn.evals.zrf import zrf
from unlearn.ops.divergence import js, js_released, output_distance

P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64).log()
Q = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64).log()


@pytest.mark.parametrize(
    "a_or, a_t, a_f, removal, expected",
    [
        (0.95, 0.94, 0.02, True, 0.9705882),
        (0.95, 0.94, 0.02, False, 0.515625),
        (0.8872, 0.8790, 0.8850, False, 0.9858847),
        (0.95, 0.95, 0.95, True, 0.5128205),
        (0.95, 0.96, 0.0, True, 1.01),
    ],
)
def test_aus_of_the_worked_examples(a_or, a_t, a_f, removal, expected):
    assert aus(a_or, a_t, a_f, removal=removal) == pytest.approx(expected, rel=1e-6)


def test_aus_falls_as_more_of_the_forgotten_is_known():
    values = [aus(0.9, 0.9, a_f, removal=True) for a_f in (0, 0.2, 0.5, 1)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_average_gap_of_saluns_table():
    assert avg_gap([2.85, 99.62, 93.93, 14.39], [5.24, 100, 94.26, 12.88]) == pytest.approx(1.1525)


def test_tug_of_war_of_saluns_table():
    assert tow([0.9715, 0.9962, 0.9393], [0.9476, 1, 0.9426]) == pytest.approx(0.9691819, rel=1e-6)


def test_h_mean_of_gs_lora():
    assert h_mean(71.16, 70.88) == pytest.approx(71.0197240, rel=1e-8)
    assert h_mean(0.9, 0.0) == h_mean(0.9, -0.1) == h_mean(0.0, 0.5) == 0


def test_nomus_and_indiscernibility_of_the_worked_examples():
    assert nomus(0.90, 0.55) == pytest.approx(0.90, rel=1e-12) == indiscernibility(0.55)
    assert nomus(0.8, 0.5, 0.25) == pytest.approx(0.95)
    assert [indiscernibility(a) for a in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]


def test_divergence_of_the_worked_example():
    assert float(js(P, Q).mean()) == pytest.approx(0.0466317, rel=2e-6)
    assert float(js(P, Q).mean()) / math.log(2) == pytest.approx(0.0672754, rel=2e-6)
    assert float(js_released(P, Q)) == pytest.approx(0.016650, rel=1e-4)


def test_zrf_of_the_worked_example():
    assert zrf(P, Q) == pytest.approx(0.95337, abs=5e-6)
    assert zrf(P, Q, "bits") == pytest.approx(0.93272, abs=5e-6)
    assert zrf(P, Q, "bad_teacher") == pytest.approx(0.9833495, rel=1e-6)


def test_released_divergence_is_torchs_with_mean_reduction():
    a, b = (torch.randn(40, 6, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1))
    m = (a.softmax(1) + b.softmax(1)) / 2
    parts = [torch.nn.functional.kl_div(z.log_softmax(1), m, reduction="batchmean") / 6 for z in (a, b)]
    assert float(js_released(a, b)) == pytest.approx(float(sum(parts)) / 2)


def test_divergence_equals_scipys():
    a, b = (5 * torch.randn(40, 6, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    expected = jensenshannon(softmax(a.double().numpy(), 1), softmax(b.double().numpy(), 1), axis=1) ** 2
    np.testing.assert_allclose(js(a, b).numpy(), expected, rtol=1e-9)


def test_divergence_is_symmetric_bounded_and_finite():
    a, b = (200 * torch.randn(100, 5, generator=torch.Generator().manual_seed(k)) for k in (2, 3))
    torch.testing.assert_close(js(a, b), js(b, a), rtol=0, atol=0)
    assert float(js(a, b).min()) >= 0
    assert float(js(a, b).max()) <= math.log(2) + 1e-15
    assert float(js(a, a).max()) < 1e-15
    masked = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert float(js(masked, masked)) == 0


def test_output_distance_of_the_worked_example():
    assert float(output_distance(P, Q, 2).mean()) == pytest.approx(0.3156596, rel=1e-6)
    assert float(output_distance(P, Q, 1).mean()) == pytest.approx(0.5, rel=1e-12)


def test_wasserstein_of_the_worked_example():
    assert w1(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 6.0, 8.0])) == 5


def test_share_beyond_a_quantile():
    others = torch.arange(101.0)
    assert beyond(torch.tensor([98.0, 99.0, 99.5, 200.0]), others, 0.99) == 0.5


def test_calibration_error_of_the_worked_example():
    sure, right = torch.tensor([0.95, 0.91, 0.83, 0.62, 0.55]), torch.tensor([1, 1, 0, 1, 0]).bool()
    assert float(ece(sure, right, 10)) == pytest.approx(0.38, rel=1e-6)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_equals_torchmetrics(bins):
    rng = torch.Generator().manual_seed(4)
    p = (2 * torch.randn(300, 5, generator=rng)).softmax(1)
    y = torch.randint(0, 5, (300,), generator=rng)
    expected = multiclass_calibration_error(p, y, 5, n_bins=bins, norm="l1")
    assert float(ece(p.amax(1), p.argmax(1) == y, bins)) == pytest.approx(float(expected), abs=1e-6)


def test_weight_distance_of_the_worked_example():
    at = {"w": torch.tensor([3.0, 4.0])}
    assert weight_distance(at, {"w": torch.tensor([3.0, 3.0])}) == pytest.approx(0.2357023, rel=1e-6)


def test_weight_distance_runs_over_all_tensors():
    there = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    here = {"a": torch.tensor([0.0]), "b": torch.tensor([[0.0]])}
    assert weight_distance(here, there) == 1
    assert weight_distance({**there, "b": torch.tensor([[9.0]])}, there) == 1


def test_anamnesis_index_of_the_worked_example():
    assert ain(12, 15) == pytest.approx(0.8001332, rel=1e-6)


def test_shares():
    assert accuracy(torch.tensor([True, False, False, False])) == 0.25
    eye = torch.eye(4)
    assert agreement(eye, eye[[0, 1, 3, 2]]) == 0.5


def test_class_drops_by_hand():
    y = torch.tensor([5, 5, 5, 5, 2, 2])
    before = torch.tensor([1, 1, 1, 0, 1, 0]).bool()
    after = torch.tensor([1, 0, 0, 1, 1, 1]).bool()
    classes, drops = class_drops(before, after, y)
    assert classes.tolist() == [2, 5]
    assert drops.tolist() == [-0.5, 0.25]


def test_collapse_is_below_the_share():
    assert collapsed(0.44, 0.5, 0.9) and not collapsed(0.45, 0.5, 0.9)
