"""Errors of predicted values."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_mean, over_examples
from unlearn.ops.values import predictions, residuals, sizes, targets, unit
from unlearn.registry import metrics
from unlearn.subject import Regresses

LEAST = 10
"""Examples that the interval of R² takes: of fewer, resamples are likely to vary in nothing."""


@metrics.register("error")
class Error(Metric):
    """Mean absolute error, root mean squared error and R² on forget, retain and test data.

    In the unit of the targets. Where a range of targets is removed, held-out examples are counted apart: those in the range
    (`test_forget`) and the others (`test_retain`). A good model misses the forget set as far as the oracle does, not
    farther. R² = 1 − Σ (ŷ − y)² / Σ (y − ȳ)² compares with the mean of the same set, so it is low in a narrow range. Of
    several values the errors and R² are averaged.

    References:
        Tarun et al., 2023, Deep regression unlearning, arXiv:2210.08196
    """

    needs: ClassVar[type] = Regresses
    draws: int = knob(200, "bootstrap draws of the interval of R²", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """Three scores for each set."""
        return [score for where in scored(ev) for score in self._scores(ev, where)]

    def _scores(self, ev: Evidence, where: str) -> list[Score]:
        out, y = predictions(ev, "unlearned", where), targets(ev, where)
        rest: dict[str, Any] = {"metric": self.name, "n": len(y)}
        found = [
            ev.level(f"error/{where}/mae", lambda who: sizes(ev, who, where).mean(), Aim.MATCH, unit=unit(ev),
                     headline=True, **rest, **ends_of_mean(sizes(ev, "unlearned", where))),
            ev.level(f"error/{where}/rmse", lambda who: rmse(residuals(ev, who, where)), Aim.MATCH, unit=unit(ev), **rest,
                     **_rooted(ends_of_mean((out - y).square().mean(1)))),
        ]  # fmt: skip
        if bool((y == y[:1]).all()):
            said = "all targets of this set are equal, so there is no variance to explain"
            return [*found, Score(name=f"error/{where}/r2", value=None, aim=Aim.MATCH, note=said, **rest)]
        ends: Ends = {}
        if len(y) >= LEAST:
            ends = over_examples(lambda i: r2(out[i], y[i]), len(y), seed=ev.seed, draws=self.draws)
        explained = ev.level(
            f"error/{where}/r2", lambda who: r2(predictions(ev, who, where), y), Aim.MATCH, **rest, **ends
        )
        return [*found, explained]  # fmt: skip


def rmse(apart: Tensor) -> float:
    """Root of the mean squared error, for residuals of shape (N, K).

    Example:
        >>> import torch
        >>> rmse(torch.tensor([[3.0], [-4.0]])) == 12.5 ** 0.5
        True
    """
    return float(apart.double().square().mean().sqrt())


def r2(out: Tensor, y: Tensor) -> float:
    """Share of the variance of y (N, K) that predictions (N, K) explain, averaged over K; 1 is perfect, 0 is the mean.

    Example:
        >>> import torch
        >>> r2(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]]))
        -1.0
    """
    left = (out - y).double().square().sum(0)
    spread = (y - y.mean(0)).double().square().sum(0).clamp_min(1e-12)
    return float((1 - left / spread).mean())


def _rooted(ends: Ends) -> Ends:
    """An interval of a mean square as one of its root."""
    if not ends:
        return ends
    return {**ends, "low": math.sqrt(max(0.0, ends["low"])), "high": math.sqrt(ends["high"])}
