"""In which orders the slices of a shard are learned, and what is left of them after deletions: no training here.

A shard of L slices is learned slice by slice, in one order or in B; after each slice a stage is kept. Of an order stays
what was learned before its first deleted slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor

from unlearn.errors import BadValue

Orders = tuple[tuple[int, ...], ...]
ATTEMPTS = 100  # draws of an order for each one that is kept
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64


def parts_of(ids: Tensor, parts: int) -> Tensor:
    """Which of some parts each example belongs to, by its id alone, with the shape of `ids`.

    Whoever else is in the data does not count, so that a system trained without some examples has all others where they
    were. Parts are therefore as large as chance makes them. The hash is SplitMix64.

    Args:
        ids: Ids of examples, with shape (n,).
        parts: Number of parts.

    References:
        Steele et al., 2014, Fast splittable pseudorandom number generators, OOPSLA, doi:10.1145/2660193.2660195
    """
    step, first, second = (np.uint64(k) for k in _ODD)
    z = (ids.cpu().numpy().astype(np.uint64) + np.uint64(1)) * step
    z = (z ^ (z >> np.uint64(30))) * first
    z = (z ^ (z >> np.uint64(27))) * second
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z % np.uint64(parts)).astype(np.int64)).to(ids.device)


def rotations(slices: int, budget: int) -> Orders:
    """Orders that begin with as many different slices as possible: cyclic rotations, then those of what follows.

    For B ≤ L the first B rotations of 0 … L−1. Beyond, each keeps its first slice while the rest is rotated; beyond
    L (L − 1), its first two; and so on. Where a round has more than are asked for, all take turns.

    Args:
        slices: L.
        budget: B, at most L!.

    Raises:
        BadValue: If there are not as many orders.

    References:
        Chowdhury et al., 2025, Towards scalable exact machine unlearning using parameter-efficient fine-tuning,
        arXiv:2406.16257

    Example:
        >>> rotations(3, 2)
        ((0, 1, 2), (2, 0, 1))
    """
    if not 1 <= budget <= math.factorial(slices):
        raise BadValue(
            f"{slices} slices have between 1 and {math.factorial(slices)} orders; got {budget} to be trained"
        )
    found = [tuple(range(slices))]
    for fixed in range(slices):
        turns = range(slices - fixed)
        found = [(*p[:fixed], *_turned(p[fixed:], k)) for k in turns for p in found]
        if len(found) >= budget:
            break
    return tuple(found[:budget])


def _turned(rest: tuple[int, ...], k: int) -> tuple[int, ...]:
    """The same, the last k first."""
    return rest[len(rest) - k :] + rest[: len(rest) - k]


def score(chances: Sequence[float], deletions: int = 100) -> float:
    """How long an order's prefixes live: Σ_n n (1 − Σ_{j ≤ n} p_j)^t.

    Args:
        chances: Probability p with which one deletion falls into each slice, in the order.
        deletions: t.
    """
    left = 1 - np.cumsum(chances)
    return float(np.sum(np.arange(1, len(left) + 1) * np.maximum(left, 0) ** deletions))


def matched(chances: Sequence[float], deletions: int = 100) -> Orders:
    """L orders for slices of known chances, grown slice by slice by bipartite matching of the largest `score`.

    Order i begins with slice i; at every place each slice stands in one order.

    Args:
        chances: Probability with which one deletion falls into each slice, with sum at most 1.
        deletions: t.

    Raises:
        BadValue: If these are no probabilities.

    References:
        Chowdhury et al., 2025, arXiv:2406.16257
    """
    from scipy.optimize import linear_sum_assignment

    p = _probabilities(chances)
    grown: list[tuple[int, ...]] = [(i,) for i in range(len(p))]
    for _ in range(len(p) - 1):
        gain = np.full((len(p), len(p)), -np.inf)  # a slice stands in an order once, whatever that costs
        for i, order in enumerate(grown):
            for j in set(range(len(p))) - set(order):
                gain[i, j] = score([p[s] for s in (*order, j)], deletions)
        _, chosen = linear_sum_assignment(gain, maximize=True)
        grown = [(*order, int(j)) for order, j in zip(grown, chosen, strict=True)]
    return tuple(grown)


def sampled(chances: Sequence[float], budget: int, rng: Generator) -> Orders:
    """Different orders, each drawn slice by slice, with weights 1 − p of those that are left.

    Args:
        chances: Probability p with which one deletion falls into each slice, with sum at most 1.
        budget: B.
        rng: Source of the draws.

    Raises:
        BadValue: If these are no probabilities, or there are not as many orders.

    References:
        Chowdhury et al., 2025, arXiv:2406.16257
    """
    p = _probabilities(chances)
    if not 1 <= budget <= math.factorial(len(p)):
        raise BadValue(
            f"{len(p)} slices have between 1 and {math.factorial(len(p))} orders; got {budget} to be drawn"
        )
    weights, found = torch.tensor([1 - c for c in p], device=rng.device), dict[tuple[int, ...], None]()
    for _ in range(ATTEMPTS * budget):
        found.setdefault(tuple(torch.multinomial(weights, len(p), generator=rng).tolist()))
        if len(found) == budget:
            return tuple(found)
    raise BadValue(
        f"of the orders of {len(p)} slices with these chances {budget} were not found; ask for fewer"
    )


def _probabilities(chances: Sequence[float]) -> list[float]:
    if not chances or min(chances) < 0 or max(chances) >= 1 or sum(chances) > 1 + 1e-6:
        raise BadValue(
            f"chances of deletion must be at least 0, below 1, and sum to at most 1; got {list(chances)}"
        )
    return list(chances)


def places(orders: Orders) -> Tensor:
    """Position of each slice in each order, with shape (B, L)."""
    return torch.tensor(orders).argsort(1)


def surviving(orders: Orders, deleted: Sequence[int]) -> list[int]:
    """How many slices each order has learned before the first deleted one.

    Args:
        orders: B orders of L slices.
        deleted: Numbers of slices, 0 to L − 1.

    Raises:
        BadValue: If there is no such slice.

    Example:
        >>> surviving(((0, 1, 2), (2, 0, 1)), [1])
        [1, 2]
    """
    slices = len(orders[0])
    if outside := [s for s in deleted if not 0 <= s < slices]:
        raise BadValue(f"there is no slice {outside[0]}; there are {slices}, numbered 0 to {slices - 1}")
    if not len(deleted):
        return [slices] * len(orders)
    first: list[int] = places(orders)[:, list(deleted)].amin(1).tolist()
    return first


def stage_epochs(epochs: int, slices: int) -> list[int]:
    """Passes over the slices so far at each stage, so that all stages cost what `epochs` over the whole shard do.

    ⌊(s + 1) a⌋ − ⌊s a⌋ with a = 2 E / (S + 1).

    Args:
        epochs: E.
        slices: S.

    References:
        Bourtoule et al., 2021, Machine unlearning, arXiv:1912.03817

    Example:
        >>> stage_epochs(20, 5)
        [6, 7, 7, 6, 7]
    """
    until = [2 * epochs * s // (slices + 1) for s in range(slices + 1)]
    return [b - a for a, b in pairwise(until)]


def groups(layers: Sequence[str], slices: int) -> list[list[str]]:
    """Layers that each stage trains, counted from the top: the topmost N div L first, then those below them.

    The lowest N mod L are never trained. Names are whole names: `layer.1` is not `layer.11`.

    Args:
        layers: Names from the bottom to the top, N of them.
        slices: L.

    Raises:
        BadValue: If there are more slices than layers.

    Example:
        >>> groups(["a", "b", "c", "d", "e"], 2)
        [['e', 'd'], ['c', 'b']]
    """
    each = len(layers) // slices
    if each == 0:
        raise BadValue(
            f"{slices} slices need {slices} groups of layers, and this network has {len(layers)} layers beside its classifier ({', '.join(layers)}); ask for at most {len(layers)} slices"
        )
    down = list(reversed(layers))
    return [down[i * each : (i + 1) * each] for i in range(slices)]
