"""I2I for diffusion models: its distances followed with plain torch, and what may move."""

import pytest
import torch

from unlearn.data import Split
from unlearn.errors import BadValue
from unlearn.methods.i2i_diffusion import I2IDiffusion, distance
from unlearn.ops.hooks import made_by
from unlearn.runtime import Run
from unlearn.testing.tiny import specimen

CPU = torch.device("cpu")


def lent(spec):
    return Split(spec.sets["forget"], spec.sets["retain"], None, None, None)


def blocks_of(net, z, t, labels):
    """Outputs of the blocks on the way down and in the middle, from a whole pass of the bare network."""
    seen = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: seen.append(out[0])) for b in net.down_blocks]
    hooks.append(net.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out)))
    with torch.no_grad():
        net(z, t, class_labels=labels)
    for h in hooks:
        h.remove()
    return seen


@pytest.mark.parametrize("noise", [False, True])
def test_distances_are_those_of_the_blocks_to_the_same_image_or_to_its_noise(noise):
    spec = specimen("ddpm").copy()
    student, teacher = spec.subject, spec.subject.clone()
    with torch.no_grad():
        for p in student.module.parameters():
            p.mul_(1.1)
    batch = next(spec.sets["forget"].batches(3))
    found = distance(student, teacher, batch, Run(4, CPU), noise=noise)
    rng = Run(4, CPU).rng
    t = torch.randint(0, 1000, (3,), generator=rng)
    eps = torch.randn(batch.x.shape, generator=rng)
    z = student.scheduler.add_noise(batch.x, eps, t)
    mine = blocks_of(student.module, z, t, batch.y)
    theirs = blocks_of(teacher.module, eps if noise else z, t, batch.y)
    expected = sum(((a - b) ** 2).flatten(1).mean(1) for a, b in zip(mine, theirs, strict=True))
    assert len(mine) == 3 and torch.allclose(found, expected, rtol=1e-5)
    assert found.requires_grad


def test_the_way_up_keeps_its_bits_and_the_way_down_moves():
    spec = specimen("ddpm").copy()
    before = {n: p.clone() for n, p in spec.subject.module.named_parameters()}
    done = I2IDiffusion(epochs=1).unlearn(spec.subject, lent(spec), Run(0, CPU))
    moved = {n for n, p in done.module.named_parameters() if not torch.equal(p, before[n])}
    behind = ("up_blocks", "conv_norm_out", "conv_out")
    assert moved and not any(n.startswith(behind) for n in moved)
    assert {n.partition(".")[0] for n in moved} >= {"down_blocks", "mid_block", "conv_in"}


def test_the_moving_average_lags_by_its_share():
    """One step from θ₀ to θ₁ with a share of 3/4 ends a quarter of the way."""
    ends = {}
    for ema in (0.0, 0.75):
        spec = specimen("ddpm").copy()
        start = spec.subject.module.conv_in.weight.clone()
        done = I2IDiffusion(epochs=1, ema=ema).unlearn(spec.subject, lent(spec), Run(0, CPU))
        ends[ema] = done.module.conv_in.weight.detach() - start
    assert ends[0.0].abs().max() > 1e-5
    assert torch.allclose(ends[0.75], ends[0.0] / 4, atol=1e-7)


def test_nothing_is_pulled_without_a_forget_weight():
    """The retain term of an unmoved student is zero, so that its first step goes nowhere."""
    spec = specimen("ddpm").copy()
    before = spec.subject.module.conv_in.weight.clone()
    done = I2IDiffusion(epochs=1, alpha=0.0).unlearn(spec.subject, lent(spec), Run(0, CPU))
    assert torch.equal(done.module.conv_in.weight, before)


def test_a_block_that_no_pass_enters_is_refused():
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    with pytest.raises(BadValue, match="does not enter Bilinear"):
        made_by([torch.nn.Bilinear(1, 1, 1), net[0]], lambda: net(torch.zeros(1, 1)))
