"""What a request may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import BadValue


@dataclass(frozen=True, slots=True)
class Labels:
    """What a request may look at: the training set without its inputs.

    Attributes:
        y: Class or target of each example, with shape (N,).
        classes: Names of the classes, by id.
        fine: Sub-class of each example, with shape (N,), or None.
        fine_classes: Names of the sub-classes, by id.
        groups: Owner of each example (person, author, account), or None.
        spoilt: Which examples were spoilt on purpose, with shape (N,), or None.
        way: Kind of the request that names them: noisy, confused, poisoned or planted; nothing where none were.
        ids: Position of each example in the data as they were given, with shape (N,), where some were held
            out or left out; None where that is its place here.
    """

    y: Tensor
    classes: tuple[str, ...] = ()
    fine: Tensor | None = None
    fine_classes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    spoilt: Tensor | None = None
    way: str = ""
    ids: Tensor | None = None


def between(y: Tensor, low: float, high: float, asked: str) -> Tensor:
    """Which targets lie in a range, both ends included, as a mask of shape (N,).

    Args:
        y: Targets, with shape (N,) or (N, 1).
        low: Smallest target in the range.
        high: Largest.
        asked: The request, for messages.

    Raises:
        BadValue: If these are classes, there are several for each example, or none lies in the range.

    Example:
        >>> between(torch.tensor([0.1, 0.2, 0.3]), 0.1, 0.2, "range=0.1:0.2").tolist()
        [True, True, False]
    """
    y = y.flatten(1).squeeze(1) if y.ndim > 1 else y
    if not y.is_floating_point() or y.ndim > 1:
        what = "several targets for each example" if y.ndim > 1 else "classes and no values"
        raise BadValue(f"{asked}: these data have {what}; ask for class=, random=, indices= or group=")
    ends = torch.tensor([low, high], dtype=y.dtype)  # so that 0.2 is the 0.2 of the data, whatever their type
    inside = (y >= ends[0]) & (y <= ends[1])
    if not inside.any():
        raise BadValue(
            f"{asked}: no training example has a target in this range, they run from {plain(y.numpy().min())} to {plain(y.numpy().max())}; choose a range that holds some"
        )
    return inside


def plain(value: float | np.floating[Any]) -> str:
    """A number without an exponent, at whose sign a sequence of requests would be split.

    Example:
        >>> plain(25.0), plain(1e16), plain(np.float32(0.1))
        ('25', '10000000000000000', '0.1')
    """
    return np.format_float_positional(value, trim="-")
