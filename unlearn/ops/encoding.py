"""Moving an encoder: how far representations are from their targets, and how large a step is."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def apart(z: Tensor, target: Tensor) -> Tensor:
    """Squared distance of each example's representation from its target, meaned over its numbers, with shape (B,)."""
    return (z - target).square().flatten(1).mean(1)


def adamw(
    params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], decay: float
) -> torch.optim.AdamW:
    """AdamW that leaves the decay out for norms and biases, which are those of one dimension."""
    known = list(params)
    groups = [
        {"params": [p for p in known if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in known if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas)


def pace(at: int, warm: int, total: int) -> float:
    """Share of the largest step size: it rises evenly over `warm` steps, and falls by half a cosine to `total`.

    Args:
        at: Steps taken.
        warm: Steps of the rise.
        total: Steps in all.

    Example:
        >>> [round(pace(k, 2, 6), 3) for k in range(7)]
        [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if at < warm:
        return at / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (at - warm) / max(1, total - warm))))


def stepped(opt: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """One step down the gradient of `loss`, cut to a norm of `clip` where that is above 0; no gradient is left."""
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], clip)
    opt.step()
    opt.zero_grad(set_to_none=True)
