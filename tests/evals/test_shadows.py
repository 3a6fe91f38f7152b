"""Per-example attacks against worked values, plain loops, and scipy's densities."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from unlearn.ops.shadows import (
    iam,
    iam_signal,
    lira,
    lira_offline,
    losses,
    margins,
    median,
    probabilities,
    rmia,
)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def world(n=40, models=12, seed=0):
    """Margins of a target and of a pool, half of which saw each example."""
    rng = torch.Generator().manual_seed(seed)
    inside = torch.rand(models, n, generator=rng).argsort(0) < models // 2
    pool = torch.randn(models, n, generator=rng).double() + 2 * inside
    return torch.randn(n, generator=rng).double(), pool, inside


def test_margins_say_probability_and_loss():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, -1.0], [80.0, 0.0, 0.0]])
    y = torch.tensor([0, 2, 0])
    m = margins(logits, y)
    assert float(m[0]) == pytest.approx(0.6867384, rel=1e-6)
    p = logits.double().softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(probabilities(m), p)
    torch.testing.assert_close(
        losses(m), torch.nn.functional.cross_entropy(logits.double(), y, reduction="none")
    )
    assert float(m[2]) == pytest.approx(80 - math.log(2)) and float(losses(m)[2]) > 0, "no rounding to 1"


def test_lira_by_hand():
    """IN 2, 3, 4 and OUT 0, 1, 2 have variance 1: halfway says nothing, and 3 is twice as far from 1."""
    pool, inside = tensor(2, 3, 4, 0, 1, 2)[:, None], torch.tensor([1, 1, 1, 0, 0, 0]).bool()[:, None]
    for shared in (False, True):
        for center in ("mean", "median"):
            for t, expected in ((2.0, 0.0), (3.0, 2.0)):
                found = lira(tensor(t), pool, inside, shared, center)
                assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("center", ["mean", "median"])
def test_lira_is_a_ratio_of_normal_densities(center):
    target, pool, inside = world()
    middle = {"mean": np.mean, "median": np.median}[center]
    online, offline = (
        lira(target, pool, inside, center=center),
        lira_offline(target, pool, inside, center=center),
    )
    for k in range(len(target)):
        seen, unseen = pool[inside[:, k], k].numpy(), pool[~inside[:, k], k].numpy()
        fits = [norm(middle(s), np.sqrt(((s - s.mean()) ** 2).sum() / (len(s) - 1))) for s in (seen, unseen)]
        phi = float(target[k])
        assert float(online[k]) == pytest.approx(fits[0].logpdf(phi) - fits[1].logpdf(phi), rel=1e-9)
        assert float(offline[k]) == pytest.approx(fits[1].logcdf(phi), rel=1e-9)


def test_lira_with_one_spread_for_all_and_with_the_quirk():
    target, pool, inside = world()
    unseen = [pool[~inside[:, k], k] for k in range(len(target))]
    seen = [pool[inside[:, k], k] for k in range(len(target))]
    spreads = [float(torch.cat([s - s.mean() for s in some]).square().sum() / sum(len(s) - 1 for s in some))
               for some in (seen, unseen)]  # fmt: skip
    shared, quirk = (lira(target, pool, inside, shared=True, sides=s) for s in ("own", "in"))
    for k in range(len(target)):
        means, phi = (float(seen[k].mean()), float(unseen[k].mean())), float(target[k])
        first = norm(means[0], spreads[0] ** 0.5).logpdf(phi)
        assert float(shared[k]) == pytest.approx(
            first - norm(means[1], spreads[1] ** 0.5).logpdf(phi), rel=1e-9
        )
        assert float(quirk[k]) == pytest.approx(
            first - norm(means[1], spreads[0] ** 0.5).logpdf(phi), rel=1e-9
        )


def test_medians_of_chosen_rows():
    _, pool, inside = world(models=9)
    for rows in (inside, ~inside):
        expected = [float(np.median(pool[rows[:, k], k])) for k in range(pool.shape[1])]
        assert median(pool, rows).tolist() == pytest.approx(expected, rel=1e-12)


def test_rmia_by_hand_and_by_loops():
    z = tensor(0.5, 0.6, 0.9, 0.99), tensor(0.5, 0.5, 0.9, 0.5)
    assert rmia(tensor(0.9), tensor(0.5), *z).tolist() == [0.75]
    rng = torch.Generator().manual_seed(1)
    p, q, zp, zq = (torch.rand(n, generator=rng).double() for n in (20, 20, 30, 30))
    p[3], q[3] = zp[5], zq[5]  # its ratio is not above its own
    for a, gamma in ((0.3, 1.0), (0.6, 2.0)):
        found = rmia(p, q, zp, zq, a, gamma)
        ratio = lambda one, out, a=a: one / (0.5 * ((1 + a) * out + (1 - a)))  # noqa: E731
        for k in range(20):
            above = [ratio(p[k], q[k]) / ratio(zp[j], zq[j]) > gamma for j in range(30)]
            assert float(found[k]) == pytest.approx(sum(map(float, above)) / 30)


def test_iam_by_the_worked_value():
    found = iam(tensor(0.99, 0.95, 0.90), tensor(0.99, 0.30, 0.85), tensor(0.6, 0.3, 0.8)[None])
    assert found.tolist() == pytest.approx([0.1060238, 0.9877495, 0.5602442], rel=1e-5)


def test_iam_is_between_zero_and_one_and_falls_as_the_model_knows_more():
    rng = torch.Generator().manual_seed(2)
    original, shadows = 0.9 + 0.1 * torch.rand(50, generator=rng), torch.rand(3, 50, generator=rng)
    last = torch.ones(50, dtype=torch.float64) + 1
    for share in (0.0, 0.3, 0.6, 0.9, 0.999):
        found = iam(original, torch.full((50,), share), shadows)
        assert (found >= 0).all() and (found <= 1).all() and (found < last).all()
        last = found
    assert (iam_signal(torch.linspace(0, 1, 50)).diff() > 0).all()


def test_in_a_known_world_every_attack_finds_members_and_more_models_help():
    """Margins normal with a mean of its own for each example, members one spread higher: LiRA above RMIA above LOSS."""
    rng = torch.Generator().manual_seed(3)
    n, models = 4000, 64
    hard = 2 * torch.randn(n, generator=rng)
    halves = [torch.rand(k, n, generator=rng).argsort(0) < k // 2 for k in (2, 8, models - 8)]
    inside = torch.cat([halves[0][:1], *halves[1:]])
    every = torch.randn(models + 1, n, generator=rng) + hard + 1.5 * inside
    target, member = every[0], inside[0].numpy()
    z = torch.randn(models + 1, 2000, generator=rng) + 2 * torch.randn(2000, generator=rng)
    pool, saw = every[1:], inside[1:]
    out = torch.where(saw, 0, probabilities(pool)).sum(0) / (~saw).sum(0)
    few = slice(1, 9)
    scores = {
        "lira": lira(target, pool, saw), "few": lira(target, every[few], inside[few], shared=True),
        "rmia": rmia(probabilities(target), out, probabilities(z[0]), probabilities(z[1:]).mean(0)),
        "loss": -losses(target),
    }  # fmt: skip
    area = {name: roc_auc_score(member, s.numpy()) for name, s in scores.items()}
    assert (
        area["lira"] > area["few"] > area["loss"] + 0.05 and area["lira"] > area["rmia"] > area["loss"] + 0.05
    )
    assert area["lira"] == pytest.approx(float(norm.cdf(1.5 / 2**0.5)), abs=0.02), (
        "two normals 1.5 spreads apart"
    )
