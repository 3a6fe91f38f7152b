"""Latents of diffusion models: from images and back, at drawn times, a few at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch
from unlearn.ops.verbs import like, normal, of_example
from unlearn.subject import Noises

AT_ONCE = 2**17
"""Numbers in the latents that are drawn at once, for memory's sake."""


@torch.no_grad()
def pictures(vae: nn.Module | None, z: Tensor) -> Tensor:
    """Images (B, 3, H, W) between 0 and 1 of finished latents (B, C, h, w).

    Args:
        vae: A diffusers AutoencoderKL; None where latents are images between -1 and 1.
        z: The latents.
    """
    if vae is not None:
        net: Any = vae.to(z.device)
        scaled = z / net.config.scaling_factor + (net.config.shift_factor or 0.0)
        z = net.decode(scaled.to(like(net))).sample.to(z)
    return ((z.expand(-1, 3, -1, -1) + 1) / 2).clamp(0, 1)


@torch.no_grad()
def latents_of(vae: nn.Module | None, images: Tensor, channels: int) -> Tensor:
    """Latents (B, C, h, w) of images (B, 3, H, W) between 0 and 1: the autoencoder's mean.

    Args:
        vae: As in `pictures`.
        images: The images.
        channels: Of a latent where there is no autoencoder.
    """
    x = images * 2 - 1
    if vae is None:
        return x[:, :channels]
    net: Any = vae.to(x.device)
    mean = net.encode(x.to(like(net))).latent_dist.mean.to(x)
    found: Tensor = (mean - (net.config.shift_factor or 0.0)) * net.config.scaling_factor
    return found


def noised(subject: Noises, batch: Batch, rng: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Latents with noise of a drawn time, the time (B,), and what should be predicted there.

    Args:
        subject: Knows its times and its noise.
        batch: The latents.
        rng: Source of both; without one, those of an example are seeded by its id.
    """
    x = batch.x.to(like(subject.module))
    if rng is None:
        t = of_example(batch.index, lambda g: subject.times(1, g)[0])
        noise = of_example(batch.index, lambda g: torch.randn(x.shape[1:], generator=g)).to(x)
    else:
        t, noise = subject.times(len(x), rng), normal(x, rng)
    z, target = subject.noised(x, t, noise)
    return z, t, target


def squared(out: Tensor, target: Tensor) -> Tensor:
    """Squared error of each example, meaned over its elements, with shape (B,)."""
    return (out - target).square().flatten(1).mean(1)


def guided_error(subject: Noises, batch: Batch, guidance: float, rng: Generator | None) -> Tensor:
    """Squared error of ε(∅) + g (ε(c) − ε(∅)) at a drawn time, summed over the elements of each example, with shape (B,).

    Args:
        subject: The model.
        batch: The latents.
        guidance: Scale g.
        rng: See `noised`.
    """
    z, t, target = noised(subject, batch, rng)
    free, told = subject.predict(z, t, subject.null(len(z))), subject.predict(z, t, subject.encode(batch))
    return (torch.lerp(free, told, guidance) - target).square().flatten(1).sum(1)


def between(total: int, steps: int, until: Tensor, rng: Generator) -> Tensor:
    """Whole times, each uniform over those of one of the equal parts that a sampler's steps cut 0 to total - 1 into.

    Args:
        total: Times of training.
        steps: Of the sampler.
        until: Steps that have been taken, from 0 to steps - 1, with shape (B,).
        rng: Source.

    Example:
        >>> between(1000, 50, torch.tensor([0, 49]), Generator().manual_seed(0)) // 20
        tensor([49,  0])
    """
    part = steps - 1 - until
    low, high = total * part // steps, total * (part + 1) // steps
    share = torch.rand(until.shape, generator=rng, device=rng.device).to(until.device)
    return low + (share * (high - low)).long()


def some(batch: Batch, shape: tuple[int, ...]) -> Iterator[Batch]:
    """A batch in parts that can be drawn at once, for latents of this shape (C, h, w)."""
    rows = torch.arange(len(batch), device=batch.y.device)
    for r in rows.split(max(1, AT_ONCE // math.prod(shape))):
        yield Batch(batch.x[r], batch.y[r], batch.index[r])
