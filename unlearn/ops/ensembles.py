"""How far the margins that a method's models give lie from those of retrained ones. All in float64.

Two sets of models are compared example by example: U unlearned ones and O oracles, each seen through its margins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unlearn.ops.enough import enough

CLIP = 100.0  # of margins
TINY = 1e-5  # of shares in KLoM, and δ in ε
BUFFER = 2.0  # by which the challenge's thresholds leave the range of margins
CAP = 50.0  # of ε, which is infinite where two sets do not overlap
PAIRS = 2**24  # numbers that are held at once


def klom(u: Tensor, o: Tensor, bins: int = 20, released: bool = False) -> Tensor:
    """Divergence of the unlearned models' margins from the oracles', from histograms, in nats, with shape (N,).

    Both are counted in bins of equal width on the range that they share; KL(unlearned ‖ oracle) of the shares, none
    taken below 1e-5, which bounds it by 11.513.

    Args:
        u: Margins of U unlearned models, with shape (U, N); beyond ±100 they are cut.
        o: Margins of O oracles, with shape (O, N).
        bins: Number of bins.
        released: As the released code counts: the largest value falls out, and shares are of those that are left.

    Raises:
        BadValue: If there are fewer than two of either.

    References:
        Georgiev et al., 2024, arXiv:2410.23232

    Example:
        >>> u, o = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]]).T, torch.tensor([[0, 1, 1, 1, 2, 2, 2, 3]]).T
        >>> round(float(klom(u, o)), 6)
        0.143841
    """
    enough("KLoM", 2, unlearned=len(u), oracles=len(o))
    both = torch.cat([u, o]).double().clamp(-CLIP, CLIP)
    low, high = both.amin(0), both.amax(0)
    width = ((high - low) / bins).clamp_min(torch.finfo(torch.float64).tiny)
    place = ((both - low) / width).floor().long()
    kept = place < bins if released else torch.ones_like(place, dtype=torch.bool)
    place = place.clamp_max(bins - 1)
    p, q = (
        _shares(place[rows], kept[rows], bins).clamp_min(TINY)
        for rows in (slice(len(u)), slice(len(u), None))
    )
    return (p * (p / q).log()).sum(0).clamp_min(0)


def _shares(place: Tensor, kept: Tensor, bins: int) -> Tensor:
    """Share of each bin (bins, N) among the kept of M places (M, N)."""
    counts = torch.zeros(bins, place.shape[1], dtype=torch.float64).scatter_add_(0, place, kept.double())
    return counts / kept.sum(0).clamp_min(1)


def klom_gauss(u: Tensor, o: Tensor) -> Tensor:
    """KL divergence of normal distributions fitted to both, in nats, with shape (N,); serves few models.

    ½ (log(σ_o² / σ_u²) + (σ_u² + (μ_u − μ_o)²) / σ_o² − 1).

    Args:
        u: Margins of U unlearned models, at least two, with shape (U, N).
        o: Margins of O oracles, at least two, with shape (O, N).

    Raises:
        BadValue: If there are fewer.
    """
    enough("KLoM by normal distributions", 2, unlearned=len(u), oracles=len(o))
    (mu, vu), (mo, vo) = ((x.mean(0), x.var(0).clamp_min(1e-12)) for x in (u.double(), o.double()))
    return ((vo / vu).log() + (vu + (mu - mo).square()) / vo - 1) / 2


def epsilon_of(fpr: Tensor, fnr: Tensor, delta: float = TINY) -> Tensor:
    """ε that an attack of these error rates shows, with their shape; infinite where it makes none.

    max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)); 0 for an attack with exactly one rate of zero, which shows
    nothing with so few models, as for one that is worse than chance.

    Example:
        >>> round(float(epsilon_of(torch.tensor(0.1), torch.tensor(0.2))), 4)
        2.0794
    """
    fpr, fnr = fpr.double(), fnr.double()
    first, second = ((1 - delta - a).clamp_min(0).log() - b.log() for a, b in ((fpr, fnr), (fnr, fpr)))
    found = torch.maximum(first, second).nan_to_num(nan=0.0).clamp_min(0)
    none = (fpr == 0) & (fnr == 0)
    found = torch.where((fpr == 0) ^ (fnr == 0), 0.0, found)
    return torch.where(none, torch.inf, found)


def epsilon_of_comparator(fpr: Tensor, fnr: Tensor, delta: float = TINY) -> Tensor:
    """ε as Unlearning Comparator counts it: from the smaller of the two ratios of `epsilon_of`, not the larger.

    A rate of zero counts as 1e-10 and is not set aside; 0 where one is 1.

    Example:
        >>> round(float(epsilon_of_comparator(torch.tensor(0.1), torch.tensor(0.2))), 4)
        1.5041
    """
    rates = [r.double().clamp(1e-10, 1 - delta - 1e-10) for r in (fpr, fnr)]
    first, second = ((1 - delta - a).log() - b.log() for a, b in (rates, rates[::-1]))
    found = torch.minimum(first, second).clamp_min(0)
    found = torch.where((fpr >= 1 - delta) | (fnr >= 1 - delta), 0.0, found)
    return torch.where((fpr == 0) & (fnr == 0), torch.inf, found)


def comparator(u: Tensor, o: Tensor, low: float, high: float) -> float:
    """Largest ε of 51 thresholds between two ends that tell one unlearned model from one oracle, over all examples.

    An attack calls those unlearned, or those of the oracle, whose value is at least the threshold. No example has an ε
    of its own. Values are rounded to two digits and cut at the ends, as in the released code.

    Args:
        u: A value of the unlearned model for each example, with shape (N,).
        o: The oracle's, with shape (M,).
        low: First threshold.
        high: Last threshold.

    References:
        Lee et al., 2025, Unlearning Comparator, arXiv:2508.12730
    """
    limits = torch.linspace(low, high, 51, dtype=torch.float64)[:, None]
    above_u, above_o = (
        (x.double().round(decimals=2).clamp(low, high) >= limits).double().mean(1) for x in (u, o)
    )
    found = [epsilon_of_comparator(fpr, 1 - tpr) for tpr, fpr in ((above_u, above_o), (above_o, above_u))]
    return float(torch.cat(found).max())


def epsilon(u: Tensor, o: Tensor, double: bool = False, delta: float = TINY) -> Tensor:
    """Largest ε over all attacks that tell unlearned models from oracles by their margins, with shape (N,).

    Args:
        u: Margins of M unlearned models, with shape (M, N).
        o: Margins of as many oracles, with shape (M, N).
        double: Also attacks by two thresholds, which call a model unlearned between them, or outside.
        delta: δ.

    Raises:
        BadValue: If there are fewer than two of either.

    References:
        Triantafillou et al., 2024, Are we making progress in unlearning? Findings from the first NeurIPS unlearning
        competition, arXiv:2406.09073

    Differences from the authors' released code:
        Every threshold between two values is tried; theirs tries those of some fitted attacks and stops with an error.
    """
    enough("ε", 2, unlearned=len(u), oracles=len(o))
    both = torch.cat([u, o]).double()
    values, order = both.sort(0)
    mine = (order < len(u)).double()
    cut = torch.cat([values[1:] > values[:-1], torch.ones_like(mine[:1], dtype=torch.bool)])
    below_u, below_o = mine.cumsum(0) / len(u), (1 - mine).cumsum(0) / len(o)
    if not double:
        ends = torch.maximum(epsilon_of(below_o, 1 - below_u, delta), epsilon_of(1 - below_o, below_u, delta))
        return torch.where(cut, ends, 0.0).amax(0)
    zero = torch.zeros_like(mine[:1])
    sides = [torch.cat([zero, s]) for s in (below_u, below_o)]
    open_ = torch.cat([torch.ones_like(cut[:1]), cut])
    step = max(1, PAIRS // len(open_) ** 2)
    parts = zip(*(t.split(step, 1) for t in (*sides, open_)), strict=True)
    return torch.cat([_between(some_u, some_o, some, delta) for some_u, some_o, some in parts])


def epsilon_released(u: Tensor, o: Tensor, delta: float = TINY) -> Tensor:
    """ε by the thresholds of the challenge's released code, its failing assertion repaired, with shape (N,).

    A hundred thresholds to a unit of margin. An attack by one calls those above it the set with the larger median. One by
    two calls those between them the set with the smaller range, their distance that range up to 2 more or less, the upper
    one no more than 2 off what this allows. Where one range is less than a hundredth of the other, ε is 50.

    Args:
        u: Margins of M unlearned models, with shape (M, N).
        o: Margins of as many oracles, with shape (M, N).
        delta: δ.

    Raises:
        BadValue: If there are fewer than two of either.

    References:
        Triantafillou et al., 2024, arXiv:2406.09073

    Differences from the authors' released code:
        Theirs asserts the truth of an array and stops. Thresholds are float64, and 0 is said of what no threshold tells.
    """
    enough("ε", 2, unlearned=len(u), oracles=len(o))
    u, o = u.double(), o.double()
    swap = o.quantile(0.5, 0) > u.quantile(0.5, 0)
    above, below = torch.where(swap, o, u), torch.where(swap, u, o)
    return torch.stack([_released(*pair, delta) for pair in zip(above.T, below.T, strict=True)])


def _released(above: Tensor, below: Tensor, delta: float) -> Tensor:
    """ε of one example from margins (M,) of the set with the larger median and of the other."""
    above, below = above.sort().values, below.sort().values
    ranges = [float(x[-1] - x[0]) for x in (above, below)]
    if min(ranges) < 0.01 * max(ranges):
        return torch.tensor(CAP, dtype=torch.float64)
    peaked, other = (below, above) if ranges[0] >= ranges[1] else (above, below)
    width = min(ranges)
    upper = _thresholds(float(peaked[0]) + width - BUFFER, float(peaked[-1]) + BUFFER)
    off = _thresholds(-BUFFER, BUFFER)
    lower = (upper[:, None] - width + off).flatten()
    upper = upper.repeat_interleave(len(off))
    single = _thresholds(float(min(above[0], below[0])), float(max(above[-1], below[-1])))
    pairs = [(_between_share(peaked, lower, upper), _between_share(other, lower, upper))]
    pairs.append((_between_share(above, single), _between_share(below, single)))
    hits, alarms = (torch.cat(part) for part in zip(*pairs, strict=True))
    return epsilon_of(alarms, 1 - hits, delta).max().clamp_max(CAP)


def _thresholds(low: float, high: float) -> Tensor:
    """A hundred to a unit, both ends among them; at least the lower one."""
    return torch.linspace(low, high, max(1, math.ceil((high - low) * 100)), dtype=torch.float64)


def _between_share(x: Tensor, low: Tensor, high: Tensor | None = None) -> Tensor:
    """Share of sorted values (M,) from each lower threshold (T,) up to the upper one, both included."""
    upto = len(x) if high is None else torch.searchsorted(x, high, side="right")
    return (upto - torch.searchsorted(x, low)).clamp_min(0).double() / len(x)


def _between(below_u: Tensor, below_o: Tensor, cut: Tensor, delta: float) -> Tensor:
    """Largest ε over all pairs of thresholds, of shares (T, N) that lie below each."""
    i, j = torch.triu_indices(len(cut), len(cut), 1)
    u, o = below_u[j] - below_u[i], below_o[j] - below_o[i]
    found = torch.maximum(epsilon_of(o, 1 - u, delta), epsilon_of(1 - o, u, delta))
    return torch.where(cut[i] & cut[j], found, 0.0).amax(0)


def forgetting_quality(eps: Tensor, models: int) -> Tensor:
    """H(ε) = 2^−⌊ε / 0.5⌋ of each example, 0 above ⌈log(M − 1)⌉, with the shape of ε.

    Args:
        eps: ε.
        models: M of each side, at least 3.
    """
    found = torch.exp2(-(eps.clamp_max(CAP) / 0.5).floor())
    return torch.where(eps > math.ceil(math.log(models - 1)), 0.0, found)
