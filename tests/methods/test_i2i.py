"""I2I: both terms by plain loops, noise by its formula, and one step of each form by hand in double precision."""

import math

import pytest
import torch
from torch import nn

from unlearn.data import Resident, Split
from unlearn.errors import Mismatch
from unlearn.methods.i2i import I2I
from unlearn.ops.completing import cut, noise_like
from unlearn.ops.encoding import apart, weighed
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.image_to_image import ImageToImage

CPU = torch.device("cpu")
HOLE = torch.zeros(2, 2, dtype=torch.bool).index_fill(0, torch.tensor([1]), True)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Four pixels to a vector of `size` numbers, and back."""

    def __init__(self, size):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, size, bias=False))
        self.decoder = nn.Sequential(nn.Linear(size, 4), nn.Unflatten(1, (1, 2, 2)))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def model(size=3):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return ImageToImage(Linear(size).double(), "decoder", hole=HOLE)


def lent(forget, retain):
    return Split(forget, retain, None, None, None)


def images(n, seed, alike=False):
    whole = torch.rand(n, 1, 2, 2, generator=rng(seed), dtype=torch.float64)
    whole = whole[:1].expand(n, 1, 2, 2).clone() if alike else whole
    return Resident(Arrays(cut(whole, HOLE, 0.0), whole), lambda x, _rng: x)


def one_step(form, forget, retain, alpha=0.7, size=3, weighting="sets"):
    method = I2I(form=form, noise="constant", alpha=alpha, epochs=1, warmup=0.0, clip=0.0, lr=0.01, batch_size=50,
                 weight_decay=0.1, weighting=weighting)  # fmt: skip
    return method.unlearn(model(size), lent(forget=forget, retain=retain), Run(0, CPU))


def by_hand(term, forget, retain, alpha=0.7, size=3):
    """The encoder after the first step of AdamW, θ − η λ θ − η g / (|g| + 1e-8)."""
    subject, first = model(size), model(size)
    w = subject.module.encoder[1].weight
    x_r, x_f = (h.source.x.flatten(1) for h in (retain, forget))
    kept = ((x_r @ w.T - x_r @ first.module.encoder[1].weight.T.detach()) ** 2).mean()
    loss = kept + alpha * term(subject, first, w, x_f)
    (g,) = torch.autograd.grad(loss, w)
    return (w - 0.01 * 0.1 * w - 0.01 * g / (g.abs() + 1e-8)).detach()


def pixels(subject, w, x_f, target):
    """Mean squared error in the hole, which is the second row."""
    made = subject.module.decoder(x_f @ w.T)
    return (made[:, 0, 1] - target[:, 0, 1]).square().mean()


def constant(x):
    """The mean of what is seen, the first row, in every pixel, and the hole cut out again."""
    mean = x.view(-1, 1, 2, 2)[:, :, 0].mean()
    return torch.tensor([[mean, mean, 0, 0]], dtype=torch.float64)


def test_forgotten_images_are_drawn_to_what_the_original_makes_of_noise():
    forget, retain = images(4, 1), images(7, 2)

    def term(_subject, first, w, x_f):
        target = constant(x_f) @ first.module.encoder[1].weight.T.detach()
        return (x_f @ w.T - target).square().mean()

    done = one_step("encoder-noise", forget, retain)
    assert torch.allclose(done.module.encoder[1].weight, by_hand(term, forget, retain), rtol=0, atol=1e-9)


def test_the_released_weighting_is_twice_the_mean_over_both_sets():
    forget, retain = images(4, 1), images(7, 2)

    def term(_subject, first, w, x_f):
        return (x_f @ w.T - constant(x_f) @ first.module.encoder[1].weight.T.detach()).square().mean()

    # a batch holds 7 retained and, of a set of 4, 4 forgotten images: 2 · (7 kept + α 4 gone) / 11
    scaled = by_hand(term, forget, retain, alpha=0.7 * 4 / 7)
    done = one_step("encoder-noise", forget, retain, weighting="batch")
    assert torch.allclose(done.module.encoder[1].weight, scaled, rtol=0, atol=1e-7)


def test_max_loss_climbs_the_training_loss():
    forget, retain = images(4, 1), images(7, 2)
    done = one_step("max-loss", forget, retain)
    hand = by_hand(lambda s, _first, w, x: -pixels(s, w, x, forget.source.y), forget, retain)
    assert torch.allclose(done.module.encoder[1].weight, hand, rtol=0, atol=1e-9)


def test_noisy_label_makes_noise_the_target():
    forget, retain = images(4, 1), images(7, 2)
    mean = forget.source.y[:, :, 0].mean()
    hand = by_hand(lambda s, _first, w, x: pixels(s, w, x, mean.expand(4, 1, 2, 2)), forget, retain)
    done = one_step("noisy-label", forget, retain)
    assert torch.allclose(done.module.encoder[1].weight, hand, rtol=0, atol=1e-9)


def test_retain_label_makes_retained_images_the_target():
    forget, retain = images(4, 1), images(3, 2, alike=True)
    target = retain.source.y[:1].expand(4, 1, 2, 2)
    hand = by_hand(lambda s, _first, w, x: pixels(s, w, x, target), forget, retain)
    method = one_step("retain-label", forget, retain)
    assert torch.allclose(method.module.encoder[1].weight, hand, rtol=0, atol=1e-9)


def test_random_encoder_has_the_mean_and_spread_of_the_representation():
    """One number for images that are all alike has no spread, so that its target is where it is already."""
    forget, retain = images(4, 1, alike=True), images(7, 2)
    moved, still = (one_step("random-encoder", forget, retain, alpha=a, size=1) for a in (5.0, 0.0))
    assert torch.allclose(moved.module.encoder[1].weight, still.module.encoder[1].weight, rtol=0, atol=1e-9)
    spread = one_step("random-encoder", images(4, 1), retain, alpha=5.0)
    assert not torch.equal(spread.module.encoder[1].weight, model().module.encoder[1].weight)


@pytest.mark.parametrize(
    "form", ["encoder-noise", "random-encoder", "max-loss", "noisy-label", "retain-label"]
)
def test_the_decoder_keeps_its_bits_and_the_encoder_moves(form):
    done, first = one_step(form, images(4, 1), images(7, 2)), model()
    for mine, theirs in zip(done.module.decoder.parameters(), first.module.decoder.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.requires_grad and mine.grad is None
    assert not torch.equal(done.module.encoder[1].weight, first.module.encoder[1].weight)


def test_both_terms_by_plain_loops_with_labels_of_one_and_minus_one():
    """The code of I2I adds (1 + l) of the retain term and (1 − l) of the forget term and takes the batch's mean."""
    z, kept, noise = (torch.randn(5, 6, 4, generator=rng(k), dtype=torch.float64) for k in range(3))
    labels, alpha = [1, -1, 1, 1, -1], 0.2
    total = 0.0
    for k, label in enumerate(labels):
        squares = [
            sum((a - b) ** 2 for a, b in zip(z[k].flatten().tolist(), t[k].flatten().tolist(), strict=True))
            / 24
            for t in (kept, noise)
        ]
        total += (1 + label) * squares[0] + alpha * (1 - label) * squares[1]
    mine = torch.tensor(labels) > 0
    found = weighed(apart(z[mine], kept[mine]), apart(z[~mine], noise[~mine]), alpha, "batch")
    assert found.item() == pytest.approx(total / 5, rel=1e-12)
    sets = weighed(apart(z[mine], kept[mine]), apart(z[~mine], noise[~mine]), alpha, "sets")
    assert sets.item() == pytest.approx(
        ((z - kept)[mine] ** 2).mean() + alpha * ((z - noise)[~mine] ** 2).mean()
    )


def test_with_as_many_of_each_the_two_weightings_agree():
    r, f = torch.rand(6, generator=rng(1)), torch.rand(6, generator=rng(2))
    assert weighed(r, f, 0.3, "sets").item() == pytest.approx(weighed(r, f, 0.3, "batch").item())


class TestNoise:
    x = torch.rand(3, 1, 2, 2, generator=rng(3), dtype=torch.float64)

    def test_of_two_numbers_of_the_batch(self):
        values = self.x.flatten().tolist()
        mean = sum(values) / 12
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / 11)
        eps = torch.randn(3, 1, 2, 2, generator=rng(9)).double()
        found = noise_like(self.x, None, (0.0, 1.0), "gaussian", rng(9))
        assert torch.allclose(found, (std * eps + mean).clamp(0, 1), rtol=0, atol=1e-12)
        assert found.min() >= 0 and found.max() <= 1

    def test_that_are_taken_outside_the_hole(self):
        seen = self.x[:, :, 0].flatten()
        blank = cut(self.x, HOLE, 0.0)
        found = noise_like(blank, HOLE, (0.0, 1.0), "constant", rng())
        assert torch.allclose(found, seen.mean().expand(3, 1, 2, 2))
        assert not torch.allclose(blank.mean(), seen.mean())

    def test_uniform_between_the_ends(self):
        found = noise_like(torch.zeros(400, 1, 2, 2), None, (-1.0, 3.0), "uniform", rng())
        assert found.min() >= -1 and found.max() <= 3
        assert abs(found.mean() - 1) < 0.1 and found.var().item() == pytest.approx(16 / 12, rel=0.1)


def test_reads_targets_only_where_a_form_needs_them():
    assert I2I().reads() == {"forget.x", "retain.x"}
    assert I2I.preset("retain-label").reads() == {"forget.x", "retain"}
    assert I2I.preset("max-loss").reads() == {"forget", "retain.x"}


def test_a_model_without_an_encoder_is_refused():
    subject = ImageToImage(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)))).double(),
                           "1", hole=HOLE)  # fmt: skip
    with pytest.raises(Mismatch, match="has no weights there; name another submodule as its decoder"):
        I2I().unlearn(subject, lent(forget=images(2, 1), retain=images(2, 2)), Run(0, CPU))
