"""Exact attacks on one number for each example: sort once, then every threshold by cumulative sums.

`members` and `others` hold a number for each example; larger means more likely a member. Ties are handled
exactly: examples of equal value fall on the same side of every threshold. A NaN makes every result NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearn.ops.stats import bootstrap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls an example a member by one threshold.

    Attributes:
        threshold: Where the two sides meet.
        above: Whether members are the values at or above it; else those below.
    """

    threshold: float
    above: bool

    def __call__(self, values: Floats) -> NDArray[np.bool_]:
        """Which examples are called members, with shape (N,)."""
        called: NDArray[np.bool_] = (values >= self.threshold) == self.above
        return called

    def balanced_accuracy(self, members: Floats, others: Floats) -> float:
        """Mean of the share of members and the share of others that are called right."""
        if np.isnan(members).any() or np.isnan(others).any():
            return float("nan")
        return float((self(members).mean() + 1 - self(others).mean()) / 2)


def auc(members: Floats, others: Floats) -> float:
    """Chance that a member's value exceeds another's, ties counted half.

    Example:
        >>> auc(-np.array([0.1, 0.2, 0.9, 0.4]), -np.array([0.3, 1.2, 0.8, 0.5]))
        0.75
    """
    codes = _codes(members, others)
    return _auc_of_codes(codes[0], codes[1]) if codes else float("nan")


def auc_interval(members: Floats, others: Floats, seed: int, draws: int = 200) -> tuple[float, float]:
    """Percentile bootstrap over examples of `auc`, at 95 %; the sort is made once for all draws."""
    codes = _codes(members, others)
    if codes is None:
        return float("nan"), float("nan")
    return bootstrap(_auc_of_codes, codes[0], codes[1], seed=seed, draws=draws)


def tpr_at(members: Floats, others: Floats, fpr: float) -> float:
    """Largest share of members found by a threshold that calls at most a share `fpr` of the others members.

    Members are the values at or above the threshold.
    """
    codes = _codes(members, others)
    if codes is None:
        return float("nan")
    found, wrong = _rates(*codes[:2], len(codes[2]))
    return float(found[wrong <= fpr].max())


def best_rule(members: Floats, others: Floats) -> Rule:
    """The threshold and direction with the largest balanced accuracy, in O(n log n).

    Of several equal ones the lowest threshold, members above.
    """
    codes = _codes(members, others)
    if codes is None:
        return Rule(float("nan"), above=True)
    values = codes[2]
    found, wrong = _rates(*codes[:2], len(values))
    gain = found - wrong
    up, down = int(gain.argmax()), int(gain.argmin())
    above = bool(gain[up] >= -gain[down])
    return Rule(float(_cuts(values)[up if above else down]), above)


def _codes(members: Floats, others: Floats) -> tuple[Ints, Ints, Floats] | None:
    """Rank of each value among the U distinct ones, for members and others, and those values (U,)."""
    pooled = np.concatenate([members, others])
    if np.isnan(pooled).any():
        return None
    values, codes = np.unique(pooled, return_inverse=True)
    return codes[: len(members)], codes[len(members) :], values


def _auc_of_codes(members: Ints, others: Ints) -> float:
    size = int(max(members.max(), others.max())) + 1
    m, o = np.bincount(members, minlength=size), np.bincount(others, minlength=size)
    below = np.cumsum(o) - o
    return float(np.dot(m, below + o / 2) / (len(members) * len(others)))


def _rates(members: Ints, others: Ints, size: int) -> tuple[Floats, Floats]:
    """Share of members and of others at or above each of the U + 1 cuts, lowest cut first."""

    def above(codes: Ints) -> Floats:
        counts = np.append(np.bincount(codes, minlength=size), 0)
        return counts[::-1].cumsum()[::-1] / len(codes)

    return above(members), above(others)


def _cuts(values: Floats) -> Floats:
    """The U + 1 places where sorted distinct values can be cut: below all, between neighbours, above all."""
    low, high = values[:-1], values[1:]
    with np.errstate(invalid="ignore"):
        middle = low / 2 + high / 2
    between = np.where((middle > low) & (middle <= high), middle, high)
    return np.concatenate([[-np.inf], between, [np.inf]])
