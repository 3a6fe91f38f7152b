"""Which classes a request removes as a whole, told from the two sets alone."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.data import Handle


def targets(data: Handle, size: int = 512) -> Tensor:
    """Targets of a set, in order, with shape (n,) or (n, *)."""
    return torch.cat([b.y for b in data.batches(size)])


def gone(forget: Handle, retain: Handle) -> Tensor:
    """Classes of which only the forget set holds examples, sorted, with shape (J,).

    Args:
        forget: Examples to be forgotten, with class ids as targets.
        retain: Examples to be kept, likewise.
    """
    asked: Tensor = targets(forget).unique()
    return asked[~torch.isin(asked, targets(retain))]
