"""Pieces of training loops: masks, hooks, freezing and the small steps, against values worked by hand."""

import copy

import pytest
import torch
from tensors import Own, handle, hooks, vector
from torch import nn

from unlearn.errors import BadValue, Mismatch, UnknownName
from unlearn.ops.freezing import copy_layers, last_layers, only
from unlearn.ops.hooks import find_head, layers, named, run_with_input_of, watching
from unlearn.ops.masks import Masked, top_share
from unlearn.ops.recipe import SGD
from unlearn.ops.steps import Eager, Lookup, accuracy, descend, outputs_by_index, reinitialised, sgd
from unlearn.runtime import threads
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier

# masks


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.75, 1.0])
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
    opt = Masked(ours, masks, lambda ps: torch.optim.SGD(ps, 0.01, momentum=0.9), weight_decay=0.1)
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
    opt = Masked(params, [torch.ones(2)] * 3, lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9), 0.5)
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


def test_looking_at_layers_moves_no_statistics():
    net = block().module
    before = copy.deepcopy(net.state_dict())
    assert layers(net, torch.randn(6, 4)) == list(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


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
    net = nn.Dropout(1.0)  # lets nothing through while training
    x = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    data = handle(x, torch.tensor([0, 1, 2, 1, 0]))
    assert accuracy(Classifier(net, 3), data, size=2) == pytest.approx(0.6)
    assert net.training


def test_a_lookup_finds_rows_by_id_over_several_sets():
    subject, data = Classifier(nn.Dropout(1.0), 1), handle(torch.arange(10.0)[:, None])
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


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_eager_steps_are_those_of_one_optimiser_and_gradients_never_exist_together():
    def built():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()).double()
        return net, nn.Parameter(torch.ones(4, dtype=torch.float64))  # the second is never used

    def loss(net, x):
        return net(net(x)).square().mean()  # every weight is used twice

    x = torch.randn(5, 4, dtype=torch.float64)
    (ours, unused), (plain, idle), together = built(), built(), []
    opt = torch.optim.Adam([*plain.parameters(), idle], 0.1)
    with Eager([*ours.parameters(), unused], lambda some: torch.optim.Adam(some, 0.1)):
        for p in ours.parameters():
            p.register_post_accumulate_grad_hook(
                lambda _: together.append(sum(q.grad is not None for q in ours.parameters()))
            )
        for _ in range(4):
            loss(ours, x).backward()
            descend(opt, loss(plain, x))
    assert all(a.equal(b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert unused.equal(idle) and not plain[0].weight.equal(built()[0][0].weight)
    assert together == [0] * 16, "gone when the next hook asks"
    loss(ours, x).backward()
    assert all(p.grad is not None for p in ours.parameters()), "afterwards they are kept as ever"


@pytest.mark.parametrize("n", [1, 2, 5, 63, 64, 65, 129, 806, 808, 898, 64_002, 45_000])
def test_no_batch_of_training_is_less_than_half_of_the_others(n):
    recipe = SGD(batch_size=64)
    size = recipe.size(n)
    sizes = [min(size, n - k) for k in range(0, n, size)]
    assert len(sizes) == recipe.steps(n) and sum(sizes) == n and max(sizes) <= 64
    assert min(sizes) >= size / 2 and size > 0.65 * min(n, 64)
    assert recipe.size(n) == min(n, 64) or 0 < n % 64 < 32
