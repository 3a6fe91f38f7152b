"""I2I for diffusion models: its distances and its steps beside plain torch, and what may move."""

import pytest
import torch

from unlearn.data import Split
from unlearn.errors import BadValue
from unlearn.methods.i2i_diffusion import I2IDiffusion, distance
from unlearn.ops.encoding import stepped
from unlearn.ops.hooks import made_by
from unlearn.ops.together import matched
from unlearn.runtime import Run
from unlearn.subject import mode
from unlearn.testing.tiny import specimen

CPU = torch.device("cpu")
BEHIND = ("up_blocks", "conv_norm_out", "conv_out")


def lent(spec):
    return Split(spec.sets["forget"], spec.sets["retain"], None, None, None)


def blocks_of(net, z, t, labels):
    """Outputs of the blocks on the way down and in the middle, with their gradient, from a whole pass of the network."""
    seen = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: seen.append(out[0])) for b in net.down_blocks]
    hooks.append(net.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out)))
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
    with torch.no_grad():
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
    assert moved and not any(n.startswith(BEHIND) for n in moved)
    assert {n.partition(".")[0] for n in moved} >= {"down_blocks", "mid_block", "conv_in"}


def far(student, teacher, batch, gen, noise):
    """Σ_l of the mean squared distance over examples and numbers, which is the mean over examples of what they have each."""
    x, n = batch.x.double(), len(batch)
    t, eps = torch.randint(0, 1000, (n,), generator=gen), torch.randn(x.shape, generator=gen).double()
    z = student.scheduler.add_noise(x, eps, t)
    with torch.no_grad():
        targets = blocks_of(teacher.module, eps if noise else z, t, batch.y)
    mine = blocks_of(student.module, z, t, batch.y)
    return sum((a - b).square().mean() for a, b in zip(mine, targets, strict=True))


def test_every_step_is_adams_on_the_loss_and_the_average_follows_it(monkeypatch):
    """Two epochs of two steps in double precision, beside Adam as its authors wrote it down; 3 of 5 forgotten beside 4."""
    spec = specimen("ddpm").copy()
    spec.subject.module.double()
    student, teacher, losses = spec.subject.clone(), spec.subject.clone(), []
    how = I2IDiffusion(alpha=0.3, lr=1e-2, epochs=2, batch_size=3, ema=0.6)
    free = [p for n, p in student.module.named_parameters() if not n.startswith(BEHIND)]
    m, v, mean = ([f(p) for p in free] for f in (torch.zeros_like, torch.zeros_like, torch.clone))
    wanted, run, k = [], Run(0, CPU), 0
    with mode(student.module, train=True):
        for _ in range(2):
            for r, f in matched(spec.sets["retain"], spec.sets["forget"], 3, run.rng):
                k += 1
                kept, gone = far(student, teacher, r, run.rng, False), far(student, teacher, f, run.rng, True)
                wanted.append((kept + 0.3 * gone).item())
                for i, g in enumerate(torch.autograd.grad(kept + 0.3 * gone, free)):
                    m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                    root = (v[i] / (1 - 0.999**k)).sqrt() + 1e-8
                    free[i].data -= 1e-2 * m[i] / (1 - 0.9**k) / root
                    mean[i] = 0.6 * mean[i].detach() + 0.4 * free[i].detach()

    def noted(opt, loss, clip):
        losses.append(loss.item())
        stepped(opt, loss, clip)

    monkeypatch.setattr("unlearn.methods.i2i_diffusion.stepped", noted)
    done = how.unlearn(spec.subject, lent(spec), Run(0, CPU))
    assert len(losses) == 4 and losses == pytest.approx(wanted, rel=1e-9)
    found = [p.detach() for n, p in done.module.named_parameters() if not n.startswith(BEHIND)]
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-8)


def test_the_paper_preset_is_that_of_the_released_code():
    """A batch of 12 is 6 of either set."""
    m = I2IDiffusion.preset("paper")
    assert (m.alpha, m.lr, m.epochs, m.batch_size, m.ema) == (0.1, 5e-5, 2, 6, 0.9999)


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
