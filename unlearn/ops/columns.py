"""Columns of numbers on a scale of their own: zero mean and unit deviation over the training rows."""

from __future__ import annotations

import torch
from torch import Tensor


def standardised(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns less their mean over some rows, divided by their deviation there; a constant column becomes 0.

    Args:
        x: Columns, with shape (N, D).
        rows: The training rows, with shape (n,).

    Returns:
        The columns as float32 (N, D), the means (D,) and the deviations (D,), in float64.

    Example:
        >>> x, mean, std = standardised(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 1]))
        >>> x.flatten().tolist(), mean.tolist(), std.tolist()
        ([-1.0, 1.0, 6.0], [2.0], [1.0])
    """
    known = x[rows].double()
    mean, std = known.mean(0), known.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    return ((x.double() - mean) / std).float(), mean, std


def strata(y: Tensor, parts: int = 10) -> Tensor:
    """The number of the equally large part of the range of targets in which each lies, with shape (N,).

    Args:
        y: Targets, with shape (N,).
        parts: How many.

    Example:
        >>> strata(torch.tensor([5.0, 1.0, 9.0, 7.0]), 2).tolist()
        [0, 0, 1, 1]
    """
    return torch.argsort(y.argsort(stable=True), stable=True) * parts // len(y)
