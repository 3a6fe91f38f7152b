"""Exposure of canaries."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.crowded import margins_of
from unlearn.ops.spoiling import Canaries as Way
from unlearn.ops.spoiling import without
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("canaries")
class CanaryExposure(Metric):
    """How far forgotten canaries stand out among fresh ones that no model saw, in bits.

    With R canaries, a forgotten one and all fresh ones, sorted by how sure the model is of their random label,

        exposure = log₂ |R| − log₂ rank,

    where equals share the mean of their ranks. The score is the mean over the forgotten canaries.

    References:
        Carlini et al., 2019, The secret sharer, arXiv:1802.08232
    """

    basic: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = (Way.kind,)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score; nothing is known where no canaries are forgotten."""
        fresh = f"{Way.kind}_test"
        if ev.request != Way.kind or fresh not in ev.handles:
            return [without(self, "canaries/exposure", Aim.MATCH)]

        @functools.cache
        def of(who: str) -> Tensor:
            return exposure(margins_of(ev, who, "forget"), margins_of(ev, who, fresh))

        r = len(ev.y(fresh)) + 1
        most, chance = math.log2(r), math.log2(r) - math.lgamma(r + 1) / r / math.log(2)
        mine = of("unlearned")
        return [ev.level(
            "canaries/exposure", lambda who: of(who).mean(), Aim.MATCH, metric=self.name, n=len(mine), unit="bits",
            headline=True, **ends_of_mean(mine),
            note=f"at most {most:.1f} bits; {chance:.1f} where ranks are random; the most exposed canary has {mine.max():.1f}",
        )]  # fmt: skip


def exposure(canaries: Tensor, fresh: Tensor) -> Tensor:
    """Exposure of each canary in bits, with shape (n,).

    Args:
        canaries: How sure the model is of each, with shape (n,).
        fresh: The same of canaries that it never saw, with shape (N,).

    Example:
        >>> import torch
        >>> exposure(torch.tensor([9.0, 2.5]), torch.tensor([1.0, 2.0, 3.0])).tolist()
        [2.0, 1.0]
    """
    above = (fresh[None] > canaries[:, None]).sum(1)
    equal = (fresh[None] == canaries[:, None]).sum(1)
    rank = 1 + above + equal.double() / 2
    return math.log2(len(fresh) + 1) - rank.log2()
