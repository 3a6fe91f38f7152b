"""Importance, masks, hooks, freezing and the small steps, against plain torch and values worked by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from unlearn.data import Resident
from unlearn.errors import BadValue, Mismatch, UnknownName
from unlearn.ops import importance
from unlearn.ops.freezing import copy_layers, last_layers, only
from unlearn.ops.hooks import find_head, layers, named, run_with_input_of, watching
from unlearn.ops.importance import (
    absolute_batch_gradient,
    gradient_of_sum,
    squared_batch_gradient,
    squared_example_gradient,
)
from unlearn.ops.masks import MaskedSGD, top_share
from unlearn.ops.steps import Lookup, accuracy, descend, outputs_by_index, reinitialised, sgd
from unlearn.sources import Arrays
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier


def handle(x, y=None):
    y = torch.zeros(len(x), dtype=torch.long) if y is None else y
    return Resident(Arrays(x, y), lambda x, rng: x)


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


def vector(tensors):
    return torch.cat([t.flatten() for t in tensors])


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# squared_example_gradient


def test_example_importance_of_a_linear_layer_by_hand():
    """With loss w · x the gradient is x: the means of 1, 9, 25 and of 4, 16, 36; of the bias, 1."""
    net = nn.Linear(2, 1)
    data = handle(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    found = squared_example_gradient(Classifier(net, 1), data, 2, loss=lambda b: net(b.x)[:, 0])
    torch.testing.assert_close(found[0], torch.tensor([[35.0, 56.0]]) / 3)
    torch.testing.assert_close(found[1], torch.ones(1))


def test_the_mixed_network_does_not_fall_back():
    assert importance._layered(mixed().module)


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


def test_products_are_the_same_in_pieces_and_at_once():
    """Large and small layers take other ways through the cache; both give Σ_n (δ_n a_nᵀ)²."""
    for o, i in ((3, 4), (300, 301)):
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


class Own(nn.Module):
    """Owns a weight that is in no layer."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.linear(x) * self.scale


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
    wanted = loop(subject.module, data)
    torch.testing.assert_close(
        vector(squared_example_gradient(subject, data, 4)), wanted, rtol=1e-9, atol=1e-14
    )
    torch.testing.assert_close(
        vector(squared_batch_gradient(subject, data, 1)), wanted, rtol=1e-9, atol=1e-14
    )
    assert (wanted == 0).any()


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


# masks


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_the_mask_equals_a_double_argsort_over_all_weights(share):
    rng = torch.Generator().manual_seed(0)
    scores = [
        torch.rand(3, 4, generator=rng),
        torch.rand(5, generator=rng),
        torch.rand(2, 2, 2, generator=rng),
    ]
    flat = vector(scores)
    wanted = (flat.argsort(descending=True).argsort() < int(share * 25)).float()
    found = top_share(scores, share)
    assert [f.shape for f in found] == [s.shape for s in scores]
    assert torch.equal(vector(found), wanted)


def test_masked_sgd_equals_stepping_and_restoring():
    """The authors' form: mask the gradient, step with weight decay, restore the weights and the momentum."""
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=rng).double(), torch.randn(6, generator=rng).double()]
    masks = [(torch.rand(s.shape, generator=rng) < 0.5).double() for s in start]
    targets = [torch.randn(s.shape, generator=rng).double() for s in start]

    def loss(params):
        return sum(((p - t) ** 4).sum() for p, t in zip(params, targets, strict=True))

    ours = [nn.Parameter(s.clone()) for s in start]
    opt = MaskedSGD(ours, masks, lr=0.01, momentum=0.9, weight_decay=0.1)
    theta, velocity = [s.clone().requires_grad_() for s in start], [torch.zeros_like(s) for s in start]
    for _ in range(7):
        opt.step(loss(ours))
        grads = torch.autograd.grad(loss(theta), theta)
        for i, m in enumerate(masks):
            velocity[i] = 0.9 * velocity[i] + (m * grads[i] + 0.1 * theta[i].detach())
            moved = theta[i].detach() - 0.01 * velocity[i]
            theta[i] = (m * moved + (1 - m) * start[i]).requires_grad_()
            velocity[i] = m * velocity[i]
    for p, q, s, m in zip(ours, theta, start, masks, strict=True):
        assert torch.equal(p[m == 0], s[m == 0])
        assert (p[m == 1] != s[m == 1]).all()
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)
        assert p.grad is None


def test_masked_sgd_leaves_frozen_and_unreached_weights_alone():
    used, frozen, unreached = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    params = [used, frozen, unreached]
    opt = MaskedSGD(params, [torch.ones(2)] * 3, lr=0.1, momentum=0.9, weight_decay=0.5)
    opt.step((used * frozen).sum())
    assert [p.tolist() for p in params] == [[pytest.approx(0.85)] * 2, [1.0, 1.0], [1.0, 1.0]]


# hooks


class Backwards(nn.Module):
    """Registers its layers in the opposite order of their use."""

    def __init__(self):
        super().__init__()
        self.third, self.second, self.first = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(5, 4)
        self.spare = nn.Linear(1, 1)

    def forward(self, x):
        return self.third(self.second(self.first(x)).relu())


def test_layers_come_in_the_order_of_the_forward_pass():
    net = Backwards()
    assert layers(net, torch.randn(2, 5)) == [net.first, net.second, net.third]
    assert find_head(net, torch.randn(2, 5)) == "third"
    assert net.training
    assert hooks(net) == 0


def test_a_module_without_a_linear_layer_has_no_head():
    with pytest.raises(Mismatch, match="no linear layer"):
        find_head(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.randn(2, 1, 2, 2))


def test_what_enters_the_head_and_what_leaves_the_module():
    net, x = Backwards(), torch.randn(2, 5)
    features, out = run_with_input_of(net, net.third, x)
    assert torch.equal(features, net.second(net.first(x)).relu())
    assert torch.equal(out, net(x))
    with pytest.raises(BadValue, match="not entered"):
        run_with_input_of(net, net.spare, x)
    assert hooks(net) == 0


def test_a_wrong_name_suggests_the_nearest():
    net = Backwards()
    assert named(net, "first") is net.first
    with pytest.raises(UnknownName, match="did you mean 'third'"):
        named(net, "thrid")


def test_watching_leaves_no_hook_behind_when_the_pass_fails():
    net = Backwards()
    with pytest.raises(RuntimeError), watching([net.first], lambda *_: None):
        net(torch.randn(2, 6))
    assert hooks(net) == 0


# freezing


def block():
    torch.manual_seed(0)
    return Classifier(
        nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        ),
        3,
    )


@pytest.mark.parametrize(("k", "first"), [(1, 4), (2, 2), (3, 0)])
def test_the_last_layers_take_the_norms_behind_them_along(k, first):
    subject = block()
    assert last_layers(subject, handle(torch.randn(6, 4)), k) == list(subject.module[first:])


def test_frozen_layers_stay_in_evaluation_mode_and_flags_come_back():
    subject = block()
    net = subject.module
    net[4].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    with only(net, [net[2], net[3]]) as free, mode(net, train=True):
        opt = sgd(free, 0.1, 0.9, 0.1)
        for _ in range(3):
            descend(opt, net(torch.randn(8, 4)).square().mean())
    assert free == [net[2].weight, net[2].bias, net[3].weight, net[3].bias]
    kept = {k for k, v in net.state_dict().items() if torch.equal(v, before[k])}
    assert kept == {k for k in before if k[0] in "014"}
    assert [p.requires_grad for p in net.parameters()] == [True] * 9 + [False]
    assert all(m.training for m in net.modules())
    assert hooks(net) == 0


def test_copied_layers_equal_the_source_and_the_others_do_not():
    a, b = block().module, block().module
    with torch.no_grad():
        for t in (*b.parameters(), b[3].running_mean):
            t.add_(1)
    copy_layers(a, b, [a[3], a[4]])
    equal = [k for k, v in a.state_dict().items() if torch.equal(v, b.state_dict()[k])]
    assert {k for k in equal if k[0] in "34"} == {k for k in a.state_dict() if k[0] in "34"}
    assert not any(k.endswith(("weight", "bias")) for k in equal if k[0] in "012")


# steps


def test_accuracy_counts_the_ragged_last_batch_and_restores_the_mode():
    net = nn.Identity()
    x = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    data = handle(x, torch.tensor([0, 1, 2, 1, 0]))
    assert accuracy(Classifier(net, 3), data, size=2) == pytest.approx(0.6)
    assert net.training


def test_a_lookup_finds_rows_by_id_over_several_sets():
    subject, data = Classifier(nn.Identity(), 1), handle(torch.arange(10.0)[:, None])
    a, b = data.take(torch.tensor([7, 2])), data.take(torch.tensor([9, 0, 4]))
    found = outputs_by_index(subject, a, b, size=2)
    assert found(torch.tensor([4, 7, 9])).flatten().tolist() == [4.0, 7.0, 9.0]
    assert Lookup(torch.tensor([3, 1]), torch.tensor([30, 10]))(torch.tensor([1, 3])).tolist() == [10, 30]


def test_descend_steps_once_and_leaves_no_gradient():
    p = nn.Parameter(torch.tensor([2.0]))
    descend(sgd([p], 0.1, 0.0, 0.0), (3 * p).sum())
    assert p.item() == pytest.approx(1.7)
    assert p.grad is None


def test_new_weights_come_from_the_generator_alone():
    def made(seed):
        return reinitialised(block().module, torch.Generator().manual_seed(seed))[0].weight

    old = block().module[0].weight
    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
    assert not torch.equal(made(1), old)
    module, state = nn.Linear(2, 2), torch.get_rng_state()
    reinitialised(module, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_weight_without_a_reset_is_refused():
    with pytest.raises(Mismatch, match="Own owns weights but has no reset_parameters"):
        reinitialised(Own(), torch.Generator())
