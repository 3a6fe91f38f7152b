"""What regressors say of each example, in the unit of the targets, in float64."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from unlearn.metric import Evidence
from unlearn.subject import Regresses


def predictions(ev: Evidence, who: str, where: str) -> Tensor:
    """Predicted values of a set or view, with shape (N, K)."""
    return in_unit(ev, ev.outputs(who, where))


def targets(ev: Evidence, where: str) -> Tensor:
    """True values of a set or view, with shape (N, K)."""
    return in_unit(ev, ev.y(where))


def residuals(ev: Evidence, who: str, where: str) -> Tensor:
    """Predicted less true values, with shape (N, K)."""
    return predictions(ev, who, where) - targets(ev, where)


def sizes(ev: Evidence, who: str, where: str) -> Tensor:
    """Absolute error of each example, in the mean over its values, with shape (N,)."""
    return residuals(ev, who, where).abs().mean(1)


def unit(ev: Evidence) -> str:
    """What values are measured in; nothing where nobody said."""
    return cast(Regresses, ev.subjects["unlearned"]).unit


def in_unit(ev: Evidence, values: Tensor) -> Tensor:
    """Outputs or targets (N, *) in their unit, with shape (N, K)."""
    subject = cast(Regresses, ev.subjects["unlearned"])
    return subject.in_unit(values.reshape(len(values), -1).double())
