"""Class statistics and Mahalanobis distances, against numpy, scipy and values worked by hand."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import nn

from unlearn.data import Gaussians, Resident
from unlearn.ops.gaussians import ClassSpace, Moments, class_moments, precision, shrink, signed_power
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

WORKED = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)


def close(a, b, atol=1e-9):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)


def test_moments_are_those_of_numpy_however_the_batches_fall():
    rng = torch.Generator().manual_seed(0)
    v, y = torch.randn(40, 5, generator=rng), torch.randint(0, 3, (40,), generator=rng) * 2
    moments = Moments(5)
    for a, b in zip(v.split(7), y.split(7), strict=True):
        moments.add(a, b)
    found = moments.gaussians()
    assert found.labels.tolist() == [0, 2, 4]
    for j, c in enumerate((0, 2, 4)):
        rows = v[y == c].double().numpy()
        close(found.mean[j], rows.mean(0))
        close(found.cov[j], np.cov(rows, rowvar=False))


def test_class_moments_are_of_powered_features_in_evaluation_mode():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.9), nn.Linear(3, 2))
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 2
    found = class_moments(Classifier(net.train(), 2), Resident(Arrays(x, y)), power=0.5, size=5)
    rows = net[0](x).relu().detach().double().sqrt().numpy()
    close(found.mean[1], rows[1::2].mean(0), 1e-6)
    close(found.cov[1], np.cov(rows[1::2], rowvar=False), 1e-6)
    assert net[2].training


def test_shrink_gives_the_worked_values():
    once = shrink(WORKED, 3, 3)
    assert once.tolist() == [[11, 4], [4, 13]]
    assert shrink(once, 3, 3).tolist() == [[47, 16], [16, 49]]


def test_shrink_takes_the_mean_of_the_covariances_that_are_not_zero():
    cov = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 7.0]])  # V1 = 4, V2 = 2
    assert shrink(cov, 1, 0.5).tolist() == [[5, 3, 1], [3, 8, 1], [1, 1, 11]]


def test_precision_gives_the_worked_value():
    close(precision(WORKED, 3, 3, 2), [[1.1251, -0.3751], [-0.3751, 1.1251]], 5e-5)


def test_precision_is_the_inverse_of_the_correlations():
    v = torch.randn(50, 16, generator=torch.Generator().manual_seed(2)).double()
    cov = torch.cov(v.T)
    close(precision(cov, 0, 0, 0), np.linalg.inv(np.corrcoef(v.numpy(), rowvar=False)), 1e-8)


def test_precision_of_a_singular_covariance_is_the_pseudo_inverse():
    v = torch.randn(6, 16, generator=torch.Generator().manual_seed(2)).double()
    p = precision(torch.cov(v.T), 0, 0, 0).numpy()
    close(p, np.linalg.pinv(np.corrcoef(v.numpy(), rowvar=False)), 1e-8)


def test_precision_of_a_class_without_spread_is_the_identity():
    assert torch.equal(precision(torch.zeros(3, 3).double(), 3, 3, 2), torch.eye(3).double())


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
def test_power_keeps_signs_and_has_no_slope_at_zero(power):
    v = torch.tensor([4.0, 0.25, 0.0, -9.0], dtype=torch.float64, requires_grad=True)
    out = signed_power(v, power)
    close(out.detach(), [4**power, 0.25**power, 0, -(9**power)])
    out.sum().backward()
    slope = [
        power * 4 ** (power - 1),
        power * 0.25 ** (power - 1),
        1 if power == 1 else 0,
        power * 9 ** (power - 1),
    ]
    close(v.grad, slope)


def test_power_survives_dropout():
    v = torch.ones(64, requires_grad=True)
    signed_power(v * 2, 0.5).sum().backward()
    w = torch.ones(64, requires_grad=True)
    mask = torch.tensor([0.0, 2.0]).repeat(32)
    signed_power(w * mask, 0.5).sum().backward()
    assert w.grad.isfinite().all() and w.grad[::2].eq(0).all()
    assert torch.equal(w.grad[1::2], v.grad[1::2])


def test_distance_gives_the_worked_value():
    # m = (0.6, 0.8), u = (1, 0), P from above: 1.1251 (0.16 + 0.64) + 2 (-0.3751) (0.4) (-0.8) = 1.1402
    stats = Gaussians(torch.tensor([3]), torch.tensor([[3.0, 4.0]]).double(), WORKED[None])
    space = ClassSpace.of(stats, 0.5, 3, 3, 2, torch.zeros(0))
    d = space.distances(torch.tensor([[25.0, 0.0], [9.0, 16.0]]))
    close(d, [[1.1402], [0.0]], 1e-4)
    assert d.dtype == torch.float32


def test_distances_are_those_of_scipy():
    rng = torch.Generator().manual_seed(3)
    moments = Moments(6)
    y = torch.randint(0, 3, (60,), generator=rng)
    moments.add(torch.rand(60, 6, generator=rng).sqrt(), y)
    stats = moments.gaussians()
    v = torch.rand(4, 6, generator=rng, dtype=torch.float64)
    d = ClassSpace.of(stats, 0.5, 3, 3, 1, v).distances(v)
    for i, row in enumerate(v.numpy() ** 0.5):
        u = row / np.linalg.norm(row)
        for j in range(3):
            s = shrink(stats.cov[j], 3, 3).numpy()
            p = np.linalg.inv(s / np.sqrt(np.outer(s.diagonal(), s.diagonal())))
            m = stats.mean[j].numpy()
            assert d[i, j].item() == pytest.approx(mahalanobis(u, m / np.linalg.norm(m), p) ** 2, abs=1e-9)
