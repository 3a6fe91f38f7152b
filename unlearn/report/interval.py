"""The interval over seeds, in one place for metrics and reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width t₀.₉₇₅ s / √n of the 95 % interval over seeds; NaN wide for a single value.

    Example:
        >>> mean, half = t_interval([0.912, 0.905, 0.921, 0.917, 0.908])
        >>> round(mean, 4), round(half, 5)
        (0.9126, 0.00808)
    """
    from scipy.special import stdtrit  # the t quantile, without the second that importing scipy.stats takes

    if len(values) < 2:
        return fmean(values), math.nan
    n = len(values)
    return fmean(values), float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
