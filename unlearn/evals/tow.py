"""Tug-of-war score (ToW)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.stats import Rows, over_examples
from unlearn.registry import metrics


@metrics.register("tow")
class Tow(Metric):
    """Closeness to the oracle in forget, retain and test accuracy at once; 1 is equality.

    With Δ the difference from the oracle,

        ToW = (1 − |ΔFA|) (1 − |ΔRA|) (1 − |ΔTA|).

    References:
        Zhao et al., 2024, What makes unlearning hard and what to do about it, arXiv:2406.01257
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        sets = ("forget", "retain", kept_test(ev))

        sizes = [len(ev.y(where)) for where in sets]

        def between(a: str, b: str, *rows: Rows) -> float:
            pairs = [[ev.correct(who, where)[r].double().mean() for where, r in zip(sets, rows, strict=True)]
                     for who in (a, b)]  # fmt: skip
            return tow(*([float(v) for v in row] for row in pairs))

        return [ev.distance(
            "tow", lambda a, b: between(a, b, ..., ..., ...), Aim.UP,
            lambda: over_examples(lambda *rows: between("unlearned", "oracle", *rows), *sizes, seed=ev.seed),
            metric=self.name, n=sum(sizes), headline=True,
        )]  # fmt: skip


def tow(row: Sequence[float], reference: Sequence[float]) -> float:
    """Product of one minus the absolute difference, over shares from 0 to 1.

    Args:
        row: Forget, retain and test accuracy of a model.
        reference: Those of the oracle.

    Example:
        >>> round(tow([0.9715, 0.9962, 0.9393], [0.9476, 1.0, 0.9426]), 6)
        0.969182
    """
    return math.prod(1 - abs(a - b) for a, b in zip(row, reference, strict=True))
