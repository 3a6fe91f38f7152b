"""Coverage of prediction intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_mean, ends_of_share
from unlearn.ops.values import residuals, unit
from unlearn.registry import metrics
from unlearn.subject import Regresses


@metrics.register("coverage")
class Coverage(Metric):
    """How often held-out targets lie in the intervals that a model promises, and how wide these are.

    Split-conformal intervals ŷ ± q, with q the ⌈(n + 1) (1 − α)⌉-th smallest of n absolute errors on the held-out set
    `fit`: where nothing was removed, at least 1 − α of new targets lie in them. A model that forgot a range misses it there
    as the oracle's intervals do. `pinball` is the quantile loss of both ends, averaged: narrow intervals that hold are
    best. Of several values the first counts.

    References:
        Lei et al., 2018, Distribution-free predictive inference for regression, arXiv:1604.04173
        Koenker and Bassett, 1978, Regression quantiles, Econometrica (pinball loss)
    """

    needs: ClassVar[type] = Regresses
    basic: ClassVar[bool] = False
    alpha: float = knob(0.1, "share of targets that may lie outside", gt=0, lt=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """Half the width; coverage and quantile loss on each held-out set."""
        half = {who: half_width(residuals(ev, who, "fit")[:, 0], self.alpha) for who in ev.subjects}
        rest: dict[str, Any] = {"metric": self.name}
        n = len(ev.y("fit"))
        if not math.isfinite(half["unlearned"]):
            said = f"{n} held-out examples are too few for intervals that hold {1 - self.alpha:.0%}"
            return [Score(name="coverage/half-width", value=None, aim=Aim.MATCH, n=n, note=said, **rest)]
        found = [ev.level("coverage/half-width", lambda who: half[who], Aim.MATCH, unit=unit(ev), n=n,
                          note="of one seed it has no interval: a quantile of the errors", **rest)]  # fmt: skip
        held = [where for where in scored(ev) if where not in ("forget", "retain")]
        return [*found, *(score for where in held for score in self._scores(ev, where, half))]

    def _scores(self, ev: Evidence, where: str, half: Mapping[str, float]) -> list[Score]:
        def hits(who: str) -> Tensor:
            return residuals(ev, who, where)[:, 0].abs() <= half[who]

        def losses(who: str) -> Tensor:
            return pinball(residuals(ev, who, where)[:, 0], half[who], self.alpha)

        rest: dict[str, Any] = {"metric": self.name, "n": len(ev.y(where))}
        share = ev.level(f"coverage/{where}", lambda who: hits(who).double().mean(), Aim.MATCH, **rest,
                         **ends_of_share(hits("unlearned")))  # fmt: skip
        loss = ev.level(f"coverage/{where}/pinball", lambda who: losses(who).mean(), Aim.MATCH, unit=unit(ev), **rest,
                        **ends_of_mean(losses("unlearned")))  # fmt: skip
        return [share, loss]


def half_width(errors: Tensor, alpha: float) -> float:
    """The ⌈(n + 1) (1 − α)⌉-th smallest absolute error of n, infinite where there are too few.

    Args:
        errors: Predicted less true values, with shape (n,).
        alpha: Share that may lie outside.

    Example:
        >>> half_width(torch.arange(1.0, 10.0), 0.2)
        8.0
    """
    k = math.ceil((len(errors) + 1) * (1 - alpha) - 1e-9)
    if k > len(errors) or not errors.isfinite().all():
        return math.inf
    return float(errors.abs().sort().values[k - 1])


def pinball(errors: Tensor, half: float, alpha: float) -> Tensor:
    """Quantile loss of both ends of the interval around each prediction, in the mean of the two.

    With u the target less an end, τ u above the end and (τ − 1) u below it, τ = α / 2 for the lower and 1 − α / 2 for the
    upper end.

    Args:
        errors: Predicted less true values, with shape (N,).
        half: Half the width of the intervals.
        alpha: Share that may lie outside.

    Returns:
        With shape (N,).
    """
    low, high = half - errors, -half - errors  # targets less the ends
    tau = alpha / 2
    return (torch.maximum(tau * low, (tau - 1) * low) + torch.maximum((1 - tau) * high, -tau * high)) / 2
