"""Intervals, from scipy; every one at 95 %."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn.report.interval import t_interval

__all__ = ["bootstrap", "t_interval", "wilson"]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson interval of a proportion.

    Args:
        hits: Successes.
        n: Trials, at least 1.

    Example:
        >>> [round(v, 5) for v in wilson(5, 1000)]
        [0.00214, 0.01165]
    """
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def bootstrap(
    statistic: Callable[..., float], *samples: NDArray[Any], seed: int = 0, draws: int = 500
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic of independent samples, each resampled by itself.

    Args:
        statistic: Takes arrays of the samples' shapes, returns a number.
        samples: Arrays with examples along the first axis.
        seed: Of the resampling.
        draws: Number of resamples.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(*(s[rng.integers(0, len(s), len(s))] for s in samples)) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
