"""Blindspot: the map Q, the loss of a batch by hand, the proxy, and what is read."""

import copy

import numpy as np
import pytest
import torch

from unlearn.data import Batch
from unlearn.methods.blindspot import Blindspot, attention, blind_loss
from unlearn.subjects.regressor import Regressor


def net(*weights):
    """Linear layers without bias, with a ReLU between them."""
    layers = []
    for w in weights:
        w = torch.tensor(w)
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(w)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def batch(x, y, first=0):
    x, y = torch.tensor(x), torch.tensor(y)
    return Batch(x, y, torch.arange(first, first + len(x)))


STUDENT = [[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0]]]
PROXY = [[[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]]]
F = ([[1.0, 1.0], [2.0, 1.0]], [5.0, 7.0])
R = ([[1.0, 0.0]], [3.0])


def q(a):
    """Q of rows in float64, by loops."""
    out = []
    for row in np.asarray(a, dtype=np.float64):
        squares = row**2
        out.append(squares / np.sqrt((squares**2).sum()))
    return np.array(out)


def test_the_map_of_an_image_is_the_mean_over_channels_on_the_unit_sphere():
    a = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for got, image in zip(attention(a), a.numpy(), strict=True):
        flat = (image**2).mean(0).reshape(-1)
        np.testing.assert_allclose(got.numpy(), flat / np.linalg.norm(flat), rtol=1e-12)


def test_the_map_of_tokens_has_one_entry_for_each_token():
    a = torch.tensor([[[3.0, 4.0], [0.0, 5.0]]])
    torch.testing.assert_close(attention(a), torch.full((1, 2), 0.5**0.5))


@pytest.mark.parametrize("beta", [0.0, 50.0])
def test_the_loss_of_a_batch_is_the_papers(beta):
    subject, proxy = (Regressor(net(*w), error="absolute") for w in (STUDENT, PROXY))
    x_f, x_r = (np.array(p[0]) for p in (F, R))

    def run(weights, x):
        hidden = x @ np.array(weights[0]).T
        return hidden, np.maximum(hidden, 0) @ np.array(weights[1]).T

    hs, out = run(STUDENT, x_f)
    hp, blind = run(PROXY, x_f)
    omega, layers = 2 / 3, [(hs, hp), (out, blind)]
    maps = sum(((q(a) - q(b)) ** 2).mean() for a, b in layers)
    own = np.abs(out - blind).mean()
    retain = np.abs(run(STUDENT, x_r)[1][:, 0] - np.array(R[1])).mean()
    expected = omega * (own + beta * maps) + (1 - omega) * retain
    assert maps > 0.01
    got = blind_loss(subject, proxy, batch(*F), batch(*R, first=2), beta)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_without_retained_examples_the_share_of_forgotten_ones_is_one():
    subject, proxy = (Regressor(net(*w), error="absolute") for w in (STUDENT, PROXY))
    got = blind_loss(subject, proxy, batch(*F), None, 0.0)
    assert got.item() == pytest.approx(np.abs(np.array([3.0, 4.0]) - np.array([2.0, 4.0])).mean())


def test_the_targets_of_forgotten_examples_change_nothing():
    subject, proxy = (Regressor(net(*w)) for w in (STUDENT, PROXY))
    losses = [blind_loss(subject, proxy, batch(F[0], y), batch(*R), 50.0).item() for y in (F[1], [0.0, -9.0])]
    assert losses[0] == losses[1]
    assert "forget.x" in Blindspot.uses and "forget" not in Blindspot.uses


def test_layers_of_a_proxy_that_is_the_student_cost_nothing():
    subject = Regressor(net(*STUDENT))
    twin = Regressor(copy.deepcopy(subject.module))
    assert blind_loss(subject, twin, batch(*F), None, 50.0).item() == 0.0


def test_published_settings_are_those_of_the_notebooks():
    agedb, sts = Blindspot.preset("agedb"), Blindspot.preset("sts")
    assert (agedb.proxy_epochs, agedb.proxy_lr, agedb.lr, agedb.epochs, agedb.beta) == (
        2,
        0.01,
        1e-3,
        1,
        50.0,
    )
    assert agedb.augment
    assert (sts.proxy_epochs, sts.epochs, sts.lr, sts.beta) == (10, 5, 1e-3, 50.0)
