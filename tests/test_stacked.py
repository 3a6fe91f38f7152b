"""Networks side by side: what each would say and become alone."""

import copy

import pytest
import torch
from torch import nn

from unlearn.data import Resident
from unlearn.errors import BadValue, Mismatch
from unlearn.networks import NETWORKS
from unlearn.ops.recipe import SGD
from unlearn.ops.stacked import stack, unstack
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

SHAPES = {"resnet8": (1, 8, 8), "resnet20": (3, 16, 16), "rows": (6,)}


def net(name, seed):
    torch.manual_seed(seed)
    if name == "rows":
        made = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    else:
        made = NETWORKS[name](SHAPES[name][0], 3)
    return made.double()


def keep(x, rng):
    return x if rng is None else x + torch.rand(len(x), generator=rng).view(-1, *[1] * (x.ndim - 1))


def examples(name, n, seed, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *SHAPES[name], generator=rng, dtype=torch.float64)
    return Resident(Arrays(x.to(dtype), torch.randint(0, 3, (n,), generator=rng)), keep)


def apart(a, b):
    """Norm of the difference of all weights, as a share of that of the first."""
    first, second = (
        torch.cat([p.detach().double().flatten() for p in s.module.parameters()]) for s in (a, b)
    )
    return float((first - second).norm() / first.norm())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("train", [False, True])
def test_a_stack_says_what_each_network_says_of_its_own_input(name, train):
    nets = [net(name, k).train(train) for k in range(3)]
    x = [torch.randn(5, *SHAPES[name], dtype=torch.float64) for _ in nets]
    whole = stack(nets)
    found = whole(torch.cat(x, 1)).unflatten(1, (3, -1))
    for k, (n, own) in enumerate(zip(nets, x, strict=True)):
        torch.testing.assert_close(found[:, k], n(own), rtol=1e-10, atol=1e-12)
    again = [net(name, 9) for _ in nets]
    unstack(whole, again)
    for n, other in zip(nets, again, strict=True):  # in train mode their statistics have moved alike
        for a, b in zip(n.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_networks_become_what_they_would_alone(name, schedule):
    """In float64, with a set, an order and crops of their own, a ragged last batch, momentum and decay: up to rounding."""
    recipe = SGD(epochs=3, batch_size=7, augment=True, schedule=schedule, lr=0.05)
    alone = [Classifier(net(name, k), 3) for k in range(3)]
    together = [Classifier(copy.deepcopy(s.module), 3) for s in alone]
    sets = [examples(name, 20, k) for k in range(3)]
    for k, s in enumerate(alone):
        recipe.fit(s, sets[k], Run(k))
    recipe.fit_together(together, sets, [Run(k) for k in range(3)])
    for a, b in zip(alone, together, strict=True):
        for p, q in zip(a.module.state_dict().values(), b.module.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)
        assert a.module.training == b.module.training


@pytest.mark.parametrize("name", SHAPES)
def test_in_float32_two_steps_agree_to_a_millionth(name):
    """The tolerance of docs/decisions/0008: eight roundings of 1.2e-7, and as near to float64 as alone."""
    recipe = SGD(epochs=1, batch_size=7, schedule="constant", lr=0.1)
    exact = [Classifier(net(name, k), 3) for k in range(3)]
    alone, together = ([Classifier(copy.deepcopy(s.module).float(), 3) for s in exact] for _ in range(2))
    for k in range(3):
        recipe.fit(exact[k], examples(name, 14, k), Run(k))
        recipe.fit(alone[k], examples(name, 14, k, torch.float32), Run(k))
    recipe.fit_together(
        together, [examples(name, 14, k, torch.float32) for k in range(3)], [Run(k) for k in range(3)]
    )
    for truth, a, b in zip(exact, alone, together, strict=True):
        assert apart(a, b) < 1e-6 and apart(truth, b) < 1e-6
        assert apart(truth, b) < 4 * apart(truth, a), "no less exact"


def test_one_network_alone_in_a_stack_is_itself():
    recipe, sets = SGD(epochs=2, batch_size=8), [examples("rows", 20, 0)]
    a, b = Classifier(net("rows", 1), 3), Classifier(net("rows", 1), 3)
    recipe.fit(a, sets[0], Run(0))
    recipe.fit_together([b], sets, [Run(0)])
    for p, q in zip(a.module.state_dict().values(), b.module.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_what_cannot_stand_side_by_side_is_refused():
    with pytest.raises(
        Mismatch, match="a LayerNorm cannot be trained side by side with others; train them one by"
    ):
        stack([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(2)])
    with pytest.raises(Mismatch, match="a Dropout cannot"):
        stack([nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)) for _ in range(2)])
    subjects = [Classifier(net("rows", k), 3) for k in range(2)]
    with pytest.raises(BadValue, match="need training sets of one size"):
        SGD().fit_together(subjects, [examples("rows", 9, 0), examples("rows", 8, 1)], [Run(0), Run(1)])
