"""What a model and a crowd say of the same examples, in one order."""

from __future__ import annotations

from torch import Tensor

from unlearn.metric import Evidence
from unlearn.ops.shadows import margins


def margins_of(ev: Evidence, who: str, where: str) -> Tensor:
    """Margins of one model on display for a set or view, in float64 with shape (N,)."""
    return margins(ev.outputs(who, where), ev.y(where))


def by_id(ev: Evidence, where: str) -> Tensor:
    """Positions of a set in the order of the ids of its examples, with shape (N,)."""
    return ev.index(where).argsort()
