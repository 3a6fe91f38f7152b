"""Newton steps from gradients of single examples, against loops and dense matrices in float64."""

import numpy as np
import pytest
import torch
from tensors import handle, hooks, vector
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from unlearn.data import Stream
from unlearn.errors import OutOfTime
from unlearn.ops.curvature import derivatives_along, solve_woodfisher, spread, summed_gradient
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

N, C = 11, 3


class Attentive(nn.Module):
    """A convolution with batch norm, attention over its places, dropout, a tied and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.drop, self.still, self.head = nn.Dropout(0.5), nn.Linear(4, 4), nn.Linear(4, C)
        self.still.requires_grad_(False)

    def forward(self, x):
        h = self.bn(self.conv(x)).relu_().flatten(2).mT
        h = scaled_dot_product_attention(h, self.first(h), self.second(h))
        return self.head(self.still(self.drop(h).mean(1)).tanh())


def subject(dtype=torch.float64):
    torch.manual_seed(0)
    net = Attentive()
    net(torch.randn(16, 1, 4, 4))
    return Classifier(net.to(dtype), C)


def data(n=N, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    return handle(torch.randn(n, 1, 4, 4, generator=rng).to(dtype), torch.randint(0, C, (n,), generator=rng))


def gradients(subject, data):
    """G: one backward pass for each example, by plain torch, with a row for each."""
    net, rows = subject.module.eval(), []
    free = [p for p in net.parameters() if p.requires_grad]
    for i in range(len(data)):
        loss = cross_entropy(net(data.source.x[i : i + 1]), data.source.y[i : i + 1])
        found = dict(zip(free, torch.autograd.grad(loss, free), strict=True))
        rows.append(torch.cat([found.get(p, torch.zeros_like(p)).flatten() for p in net.parameters()]))
    net.train()
    return torch.stack(rows)


def direction(subject):
    rng = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=rng).to(p) * p.requires_grad for p in subject.module.parameters()]


@pytest.mark.parametrize("size", [1, 4, N])
def test_derivatives_along_a_direction_are_products_with_single_gradients(size):
    model = subject()
    d = direction(model)
    found = derivatives_along(model, data(), size, d)
    torch.testing.assert_close(found, gradients(model, data()) @ vector(d), rtol=1e-9, atol=1e-12)


def test_sums_do_not_depend_on_the_pass():
    model = subject()
    wanted = gradients(model, data()).sum(0)
    for size in (1, 4, N):
        torch.testing.assert_close(
            vector(summed_gradient(model, data(), size)), wanted, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["gentle", "steep"])
def test_the_inverse_is_that_of_the_dense_matrix(scale):
    model = subject()
    with torch.no_grad():
        model.module.head.weight *= scale
    v, g = direction(model), gradients(model, data()).numpy()
    dense = np.eye(g.shape[1]) + g.T @ g / N
    wanted = np.linalg.solve(dense, vector(v).numpy())
    found = vector(solve_woodfisher(model, spread(data(), N, 4), 4, v, Run())).numpy()
    assert np.linalg.norm(found - wanted) < 1e-6 * np.linalg.norm(wanted)
    assert np.linalg.norm(vector(v).numpy() - wanted) > 1e-2 * np.linalg.norm(wanted)


def test_the_inverse_in_single_precision():
    wanted = vector(solve_woodfisher(subject(), spread(data(), N, N), N, direction(subject()), Run()))
    model = subject(torch.float32)
    found = vector(
        solve_woodfisher(model, spread(data(dtype=torch.float32), N, N), N, direction(model), Run())
    ).double()
    assert (found - wanted).norm() < 1e-3 * wanted.norm()


def test_nothing_is_left_behind():
    model = subject()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    same = list(model.module.parameters())
    solve_woodfisher(model, spread(data(), N, 4), 4, direction(model), Run())
    assert all(p is q for p, q in zip(model.module.parameters(), same, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert all(m.training for m in model.module.modules()) and hooks(model.module) == 0


@pytest.mark.parametrize(
    ("n", "places"), [(1, [0]), (4, [0, 2, 5, 8]), (11, range(11)), (99, range(11))], ids=str
)
def test_examples_are_evenly_spaced_and_numbered_anew(n, places):
    source = Arrays(torch.arange(20.0)[:, None], torch.arange(20))
    found = spread(Stream(source, rows=torch.arange(5, 16)), n, 3)
    (batch,) = found.batches(64)
    assert batch.y.tolist() == [5 + i for i in places]
    assert batch.x.flatten().tolist() == [5 + i for i in places]
    assert batch.index.tolist() == list(range(len(places)))


def test_a_solution_that_takes_too_long_is_given_up():
    with pytest.raises(OutOfTime, match="the time that was given is over"):
        solve_woodfisher(subject(), spread(data(), N, 4), 4, direction(subject()), Run(deadline=0.0))
