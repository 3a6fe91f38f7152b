"""Intervals, from scipy; every one at 95 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


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


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Half-width form over seeds: mean and t₀.₉₇₅ s / √n; the half-width is NaN for a single value.

    Example:
        >>> mean, half = t_interval([0.912, 0.905, 0.921, 0.917, 0.908])
        >>> round(mean, 4), round(half, 5)
        (0.9126, 0.00808)
    """
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(t.ppf(0.975, len(values) - 1)) * spread


def bootstrap(
    statistic: Callable[..., float], *samples: NDArray[np.float64], seed: int = 0, draws: int = 500
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
