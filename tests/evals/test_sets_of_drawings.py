"""Fréchet and kernel distance and the jackknife, against hand-worked values, scipy and torchmetrics."""

import pytest
import torch
from scipy.linalg import sqrtm

from unlearn.evals.kernel_distance import mmd
from unlearn.ops.drawn import over_groups
from unlearn.ops.frechet import frechet, frechet_of_gaussians
from unlearn.ops.stats import ends_of_mean


def features(n, d, seed, spread=1.0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return spread * torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + shift


class Given(torch.nn.Module):
    """A network whose features of an 'image' are its first pixels, for torchmetrics."""

    num_features = 4

    def forward(self, x):
        return x[:, 0, 0, :4]


def pictured(x):
    images = torch.zeros(len(x), 3, 8, 8, dtype=torch.float64)
    images[:, 0, 0, :4] = x
    return images


def by_scipy(a, b):
    cov = [torch.cov(x.T).numpy() for x in (a, b)]
    root = sqrtm(cov[0] @ cov[1]).real
    return float((a.mean(0) - b.mean(0)).square().sum() + (cov[0] + cov[1] - 2 * root).trace())


def test_frechet_of_two_gaussians_by_hand():
    eye, mean = torch.eye(2), torch.tensor([3.0, 4.0])
    assert frechet_of_gaussians(torch.zeros(2), eye, mean, 4 * eye) == pytest.approx(27, abs=1e-12)


@pytest.mark.parametrize("n", [40, 400])
def test_frechet_is_that_of_scipy(n):
    a, b = features(n, 12, 1), features(n + 7, 12, 2, 1.7, 0.3)
    assert frechet(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)
    means, covs = [x.mean(0) for x in (a, b)], [torch.cov(x.T) for x in (a, b)]
    assert frechet_of_gaussians(means[0], covs[0], means[1], covs[1]) == pytest.approx(
        frechet(a, b), rel=1e-9
    )


def test_frechet_is_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = features(50, 4, 3), features(60, 4, 4, 2.0, 1.0)
    judge = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    for x, real in ((a, True), (b, False)):
        judge.update(pictured(x), real=real)
    assert frechet(a, b) == pytest.approx(float(judge.compute()), rel=1e-5)


def test_fewer_drawings_than_features_lose_no_accuracy():
    a, b = features(30, 3, 5), features(30, 3, 6, 0.5, 2.0)
    turn = torch.linalg.qr(features(200, 200, 7)).Q[:3]
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b), rel=1e-9)


def test_frechet_of_a_set_with_itself_is_nothing():
    a = features(20, 64, 8)
    assert 0 <= frechet(a, a) < 1e-10
    assert frechet(a, a + 1) == pytest.approx(64)


def test_frechet_of_what_is_not_finite_is_unknown():
    a = features(20, 4, 9)
    bad = a.clone()
    bad[3, 1] = float("nan")
    assert torch.tensor(frechet(bad, a)).isnan()


def test_kernel_distance_by_hand():
    a, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert mmd(a, b) == pytest.approx(1.1875, abs=1e-12)
    assert mmd(a, b, paired=True) == pytest.approx(2.375, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_is_that_of_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = features(30, 4, 1), features(30, 4, 2, 1.5)
    judge = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=30, normalize=True)
    for x, real in ((a, True), (b, False)):
        judge.update(pictured(x), real=real)
    assert mmd(a, b) == pytest.approx(float(judge.compute()[0]), rel=1e-5)


def test_pairs_that_depend_on_each_other_leave_the_paired_estimate_unbiased():
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2000, 5, 3, generator=rng)
    y = 1.2 * x + 0.1 * torch.randn(x.shape, generator=rng) + 0.2
    paired = torch.tensor([mmd(a, b, paired=True) for a, b in zip(x, y, strict=True)])
    plain = torch.tensor([mmd(a, b) for a, b in zip(x, y, strict=True)])
    truth = mmd(x[:1000].flatten(0, 1)[:4000], y[1000:].flatten(0, 1)[:4000])
    error = float(paired.std()) / len(paired) ** 0.5
    assert float(paired.mean()) == pytest.approx(truth, abs=4 * error + 0.02)
    assert float(plain.mean()) < truth - 0.2, "as if the pairs were independent: biased downwards"


def test_the_jackknife_of_a_mean_is_the_t_interval_over_groups():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = over_groups(lambda rows: float(x[rows].mean()), 40, seed=5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    groups = torch.stack([x[order[torch.arange(40) % 20 == k]].mean() for k in range(20)])
    wanted = ends_of_mean(groups)
    assert found["low"] == pytest.approx(wanted["low"])
    assert found["high"] == pytest.approx(wanted["high"])
    assert found["interval"] == "jackknife 95 %, 20 groups"


def test_of_too_few_or_of_the_unknown_there_is_no_interval():
    assert over_groups(lambda rows: 1.0, 3) == {}
    assert over_groups(lambda rows: float("nan"), 40) == {}
