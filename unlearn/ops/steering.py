"""What samples follow: classifier-free guidance, less what guides take away from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Steering:
    """Guidance of one trajectory, with the memory that each guide has of it.

    Args:
        guides: See `unlearn.subject.Steers`.
        guidance: Scale g.
    """

    def __init__(self, guides: Sequence[nn.Module], guidance: float) -> None:
        self.guides, self.guidance = guides, guidance
        self.memory: list[Tensor] = []

    def __call__(self, step: int, free: Tensor, told: Tensor, *named: Tensor) -> Tensor:
        """ε(∅) + g (ε(c) − ε(∅) − Σ d), with the shape of its inputs.

        Args:
            step: Position i in the trajectory, from 0.
            free: ε(∅), with shape (B, *).
            told: ε(c).
            named: ε(p) of each guide's prompt.
        """
        self.memory = self.memory or [torch.zeros_like(free) for _ in self.guides]
        toward = told - free
        for k, (guide, own) in enumerate(zip(self.guides, named, strict=True)):
            away, self.memory[k] = guide(step, free, told, own, self.memory[k])
            toward = toward - away
        return free + self.guidance * toward
