"""Weights of few bits, and weights without the smallest ones."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(w: Tensor, bits: int) -> Tensor:
    """Weights (O, *) on a symmetric grid for each output channel that reaches as far as its largest one.

    s · clip(round(W / s), −q, q) with s = max |W| / q and q = 2^(bits − 1) − 1.

    Example:
        >>> rounded(torch.tensor([[0.3, -0.7], [0.0, 0.0]]), 2)
        tensor([[ 0.0000, -0.7000],
                [ 0.0000,  0.0000]])
    """
    q = 2 ** (bits - 1) - 1
    scale = w.flatten(1).abs().amax(1).clamp_min(torch.finfo(w.dtype).tiny) / q
    steps: Tensor = scale.view(-1, *[1] * (w.dim() - 1))
    return (w / steps).round().clamp(-q, q) * steps


def pruned(w: Tensor, share: float) -> Tensor:
    """Weights without the share of them that is smallest in size, int(share · P) of P.

    Example:
        >>> pruned(torch.tensor([[0.3, -0.7], [0.1, 0.2]]), 0.5)
        tensor([[ 0.3000, -0.7000],
                [ 0.0000,  0.0000]])
    """
    n = int(share * w.numel())
    if not n:
        return w
    keep = torch.ones(w.numel(), dtype=torch.bool, device=w.device)
    keep[w.flatten().abs().argsort(stable=True)[:n]] = False
    return w * keep.view_as(w)
