"""What a diffusion model predicted before it was changed, so that no second model is needed to know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unlearn.data import Batch, Handle
from unlearn.errors import BadData
from unlearn.ops.erasure import ROWS, encoded, taken
from unlearn.ops.names import ids_of
from unlearn.ops.points import Plan, points
from unlearn.runtime import Run
from unlearn.subject import Denoises


@dataclass(frozen=True, slots=True)
class Remembered:
    """Noisy latents on the way to drawings of some prompts, with what was predicted there.

    Attributes:
        z: Latents x_t, with shape (N, *).
        t: Their times, with shape (N,).
        y: Token ids of their prompts, with shape (N, L).
        free: ε*(x_t, t, ∅), with shape (N, *).
        told: ε*(x_t, t, c), with shape (N, *).
    """

    z: Tensor
    t: Tensor
    y: Tensor
    free: Tensor
    told: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def take(self, rows: Tensor) -> Self:
        """Some of them, with shape (B,)."""
        return type(self)(self.z[rows], self.t[rows], self.y[rows], self.free[rows], self.told[rows])

    def split(self, size: int) -> Iterator[Self]:
        """All of them in order, `size` at a time."""
        return map(self.take, torch.arange(len(self), device=self.t.device).split(size))

    def prompts(self) -> Batch:
        """The prompts as a batch without inputs, to be encoded again."""
        return Batch(self.z[:, :0], self.y, torch.arange(len(self), device=self.t.device))


@torch.no_grad()
def remembered(subject: Denoises, prompts: Handle, n: int, guidance: float, run: Run) -> Remembered:
    """Latents that the model denoises towards prompts for a number of steps, uniform over a trajectory.

    Args:
        subject: The model before it is changed.
        prompts: Each latent has one of them at random.
        n: Number of latents N.
        guidance: Scale of classifier-free guidance.
        run: Randomness, progress.

    Raises:
        BadData: If there is no prompt.
    """
    if not len(prompts):
        raise BadData("a set of prompts is empty; give prompts of the concept and prompts of what must stay")
    told, ids = encoded(subject, prompts), ids_of(prompts)
    plan = Plan(1, n, guidance, "base", n)
    (found,) = points(subject, told, len(ids), plan, run)
    parts = []
    for z, t, row in zip(*(part.split(ROWS) for part in found), strict=True):
        free = subject.predict(z, t, subject.null(len(z)))
        parts.append((z, t, ids[row], free, subject.predict(z, t, taken(told, row))))
    return Remembered(*map(torch.cat, zip(*parts, strict=True)))
