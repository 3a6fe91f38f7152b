"""Importance of weights, by example and by batch, against plain torch and values worked by hand."""

import copy

import pytest
import torch
from tensors import Own, handle, hooks, vector
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from unlearn.ops import importance
from unlearn.ops.importance import (
    absolute_batch_gradient,
    gradient_of_sum,
    squared_batch_gradient,
    squared_example_gradient,
)
from unlearn.subjects.classifier import Classifier


class Mixed(nn.Module):
    """Convolutions with and without bias, stride and dilation, three kinds of norm, linear layers on rows
    and on tokens, and one of each of the last two called twice."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, (2, 3), stride=(1, 2), dilation=(2, 1), padding=1)
        self.gn = nn.GroupNorm(3, 6)
        self.conv3 = nn.Conv2d(6, 6, 1)
        self.token = nn.Linear(6, 5)
        self.ln = nn.LayerNorm(5)
        self.again = nn.Linear(5, 5)
        self.flat = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        h = self.bn(self.conv1(x)).relu_()
        h = self.gn(self.conv2(h)).tanh()
        h = self.conv3(self.conv3(h)) + h
        h = self.ln(self.token(h.flatten(2).mT)).relu()
        h = self.ln(self.again(input=h) + h)
        return self.last(self.flat(self.again(h.mean(1)).tanh()))


def mixed(dtype=torch.float64):
    torch.manual_seed(0)
    net = Mixed()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    net(torch.randn(16, 2, 5, 7))
    return Classifier(net.to(dtype).eval(), 3)


def mixed_data(n=11, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    return handle(torch.randn(n, 2, 5, 7, generator=rng).to(dtype), torch.randint(0, 3, (n,), generator=rng))


def loop(module, data, loss=cross_entropy):
    """Mean squared gradient of one example at a time, by plain torch, as one vector."""
    free = [p for p in module.parameters() if p.requires_grad]
    total = {p: torch.zeros_like(p) for p in module.parameters()}
    for i in range(len(data)):
        value = loss(module(data.source.x[i : i + 1]), data.source.y[i : i + 1])
        for p, g in zip(free, torch.autograd.grad(value, free, allow_unused=True), strict=True):
            total[p] += 0 if g is None else g.square()
    return torch.cat([t.flatten() / len(data) for t in total.values()])


# squared_example_gradient


def test_example_importance_of_a_linear_layer_by_hand():
    """With loss w · x the gradient is x: the means of 1, 9, 25 and of 4, 16, 36; of the bias, 1."""
    net = nn.Linear(2, 1)
    data = handle(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    found = squared_example_gradient(Classifier(net, 1), data, 2, loss=lambda b: net(b.x)[:, 0])
    torch.testing.assert_close(found[0], torch.tensor([[35.0, 56.0]]) / 3)
    torch.testing.assert_close(found[1], torch.ones(1))


def test_the_mixed_network_takes_one_pass_for_each_batch():
    subject, data, seen = mixed(), mixed_data(), []

    def loss(batch):
        seen.append(len(batch))
        return cross_entropy(subject.module(batch.x), batch.y, reduction="none")

    squared_example_gradient(subject, data, 4, loss=loss)
    assert seen == [4, 4, 3]


@pytest.mark.parametrize("size", [1, 4, 11, 64])
def test_example_importance_equals_one_backward_pass_for_each_example(size):
    subject, data = mixed(), mixed_data()
    found = squared_example_gradient(subject, data, size)
    assert [f.shape for f in found] == [p.shape for p in subject.module.parameters()]
    torch.testing.assert_close(vector(found), loop(subject.module, data), rtol=1e-9, atol=1e-14)


def test_example_importance_in_single_precision():
    wanted = loop(mixed().module, mixed_data())
    found = vector(squared_example_gradient(mixed(torch.float32), mixed_data(dtype=torch.float32), 4))
    assert ((found - wanted).abs() / wanted.abs().max()).max() < 1e-5


@pytest.mark.parametrize(
    ("o", "i"), [(3, 4), (150, 151), (300, 301)], ids=["at once", "two by two", "one by one"]
)
def test_products_are_the_same_in_pieces_and_at_once(o, i):
    """Large and small layers take other ways through the cache; all give Σ_n (δ_n a_nᵀ)²."""
    delta, a = torch.randn(5, o, 2).double(), torch.randn(5, i, 2).double()
    total = torch.zeros(o, i).double()
    importance._add_squared_products(total, delta, a)
    torch.testing.assert_close(total, torch.einsum("bol,bil->boi", delta, a).square().sum(0))


class Functional(nn.Module):
    """Uses the weight of a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(nn.functional.linear(x, self.first.weight))


class TokensFirst(nn.Module):
    """Hands a layer its tokens before its examples."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x.unflatten(1, (2, 2)).transpose(0, 1).tanh()).square().sum(0)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


def grouped():
    return nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 6, 1, groups=2), nn.Flatten(), nn.Linear(6, 3)
    )


def reflecting():
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), conv, nn.Flatten(), nn.Linear(8, 3))


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))


@pytest.mark.parametrize(
    "build",
    [Functional, TokensFirst, Tied, Own, grouped, reflecting, weight_normed],
    ids=lambda f: f.__name__,
)
def test_what_has_no_closed_form_falls_back_to_the_loop(build):
    torch.manual_seed(0)
    net = build().double()
    data = handle(torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 1, 0]))
    found = vector(squared_example_gradient(Classifier(net, 3), data, 4))
    torch.testing.assert_close(found, loop(net, data), rtol=1e-9, atol=1e-14)
    assert hooks(net) == 0


def test_embeddings_fall_back_to_the_loop():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    data = handle(torch.tensor([[0, 1], [2, 2], [6, 0]]), torch.tensor([0, 1, 2]))
    found = vector(squared_example_gradient(Classifier(net, 3), data, 2))
    torch.testing.assert_close(found, loop(net, data), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("frozen", ["conv2", "ln", "last"])
def test_frozen_weights_have_no_importance(frozen):
    subject, data = mixed(), mixed_data()
    for p in subject.module.get_submodule(frozen).parameters():
        p.requires_grad_(False)
    wanted, names = loop(subject.module, data), [n for n, _ in subject.module.named_parameters()]
    for found in (squared_example_gradient(subject, data, 4), squared_batch_gradient(subject, data, 1)):
        torch.testing.assert_close(vector(found), wanted, rtol=1e-9, atol=1e-14)
        none = {n for n, f in zip(names, found, strict=True) if not f.any()}
        assert none == {f"{frozen}.weight", f"{frozen}.bias"}


def test_a_part_that_is_not_reached_has_no_importance():
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "spare": nn.Linear(4, 3)}).double()
    data = handle(torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 1, 0]))
    subject = Classifier(net, 3)
    fn = lambda b: cross_entropy(net["used"](b.x), b.y, reduction="none")  # noqa: E731
    found = squared_example_gradient(subject, data, 4, loss=fn)
    assert [bool((f == 0).all()) for f in found] == [False, False, True, True]


def test_no_hook_is_left_behind_even_by_a_loss_that_fails():
    subject, data = mixed(), mixed_data()

    def fails(batch):
        subject.module(batch.x)
        raise ZeroDivisionError

    squared_example_gradient(subject, data, 4)
    with pytest.raises(ZeroDivisionError):
        squared_example_gradient(subject, data, 4, loss=fails)
    assert hooks(subject.module) == 0


def test_importance_neither_trains_nor_leaves_gradients_and_modes_behind():
    subject, data = mixed(), mixed_data()
    subject.module.train()
    before = copy.deepcopy(subject.module.state_dict())
    squared_example_gradient(subject, data, 4)
    squared_batch_gradient(subject, data, 4)
    assert all(m.training for m in subject.module.modules())
    assert all(p.grad is None for p in subject.module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in subject.module.state_dict().items())


# batch forms


def test_batch_forms_by_hand():
    """With loss w · x and rows 1, -3 | 6 the batch gradients are -1 and 6: a small last batch weighs as much."""
    net = nn.Linear(1, 1, bias=False)
    subject, data = Classifier(net, 1), handle(torch.tensor([[1.0], [-3.0], [6.0]]))
    loss = lambda b: net(b.x)[:, 0]  # noqa: E731
    assert squared_batch_gradient(subject, data, 2, loss=loss)[0].item() == pytest.approx((1 + 36) / 2)
    assert absolute_batch_gradient(subject, data, 2, loss=loss)[0].item() == pytest.approx((1 + 6) / 2)
    toy = type("Toy", (), {"module": net, "loss": staticmethod(lambda b, rng: net(b.x)[:, 0])})()
    assert gradient_of_sum(toy, data, 2)[0].item() == pytest.approx(-1 + 6)
    assert gradient_of_sum(toy, data, 2, clip=2.0)[0].item() == pytest.approx(-1 + 2)
    assert gradient_of_sum(toy, data, 2, loss=lambda b: 3 * net(b.x)[:, 0])[0].item() == pytest.approx(15)


def test_a_clipped_gradient_is_that_of_torch():
    subject, data = mixed(), mixed_data(4)
    params = list(subject.module.parameters())
    subject.module.eval()
    subject.loss(next(data.batches(4))).mean().backward()
    norm = float(torch.nn.utils.clip_grad_norm_(params, 0.01))
    assert norm > 0.01
    for got, p in zip(gradient_of_sum(subject, data, 4, clip=0.01), params, strict=True):
        torch.testing.assert_close(
            got, torch.zeros_like(p) if p.grad is None else p.grad, rtol=1e-4, atol=1e-9
        )


def test_batch_importance_equals_vmap_over_batches():
    subject, data = mixed(), mixed_data(12)
    net = subject.module
    params, buffers = dict(net.named_parameters()), dict(net.named_buffers())

    def loss(params, x, y):
        return cross_entropy(functional_call(net, (params, buffers), (x,)), y)

    x, y = data.source.x.unflatten(0, (3, 4)), data.source.y.unflatten(0, (3, 4))
    grads = vmap(grad(loss), in_dims=(None, 0, 0))({k: p.detach() for k, p in params.items()}, x, y)
    wanted = vector(g.square().mean(0) for g in grads.values())
    torch.testing.assert_close(
        vector(squared_batch_gradient(subject, data, 4)), wanted, rtol=1e-9, atol=1e-14
    )
