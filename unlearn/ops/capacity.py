"""How many deletions a sliced system bears before nothing of it may be used any more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from unlearn.errors import BadValue
from unlearn.ops.orders import Orders, places


def harmonic(n: int) -> float:
    """1 + 1/2 + … + 1/n.

    Example:
        >>> round(harmonic(5), 6)
        2.283333
    """
    return sum(1 / k for k in range(1, n + 1))


def expected(slices: int, firsts: int) -> float:
    """Deletions, each in a slice drawn evenly from all, until every slice that an order begins with was hit.

    N H_F, the mean time of a coupon collector who needs F of N coupons. m shards of L slices in B rotations have N = m L
    and F = m min(B, L); SISA has F = m.

    Args:
        slices: N of the whole system.
        firsts: F of the whole system.

    References:
        Chowdhury et al., 2025, Towards scalable exact machine unlearning using parameter-efficient fine-tuning,
        arXiv:2406.16257

    Example:
        >>> round(expected(20, 5), 4), round(expected(20, 20), 4)
        (45.6667, 71.9548)
    """
    return slices * harmonic(firsts)


def firsts(orders: Orders, alive: Tensor) -> list[int]:
    """Numbers of the slices, among all of the system, that must be hit before nothing is left.

    Args:
        orders: B orders of the L slices of a shard.
        alive: Slices that each order of each shard has left, with shape (m, B).
    """
    slices, left = len(orders[0]), alive.tolist()
    return sorted(
        {k * slices + o[0] for k, row in enumerate(left) for o, n in zip(orders, row, strict=True) if n}
    )


def simulated(
    orders: Orders, alive: Tensor, runs: int, rng: Generator, chances: Sequence[float] | None = None
) -> Tensor:
    """Deletions until nothing is left, of many random sequences of them, with shape (runs,).

    Args:
        orders: B orders of the L slices of a shard, the same in every shard.
        alive: Slices that each order of each shard has left now, with shape (m, B).
        runs: How many sequences.
        rng: Source of the deletions.
        chances: Probability of each slice of the system to be hit by one deletion, shard after shard, m L of them;
            all the same if None.

    Raises:
        BadValue: If a slice that must be hit has no chance, so that no sequence would end.
    """
    (m, _), slices = alive.shape, len(orders[0])
    weights = torch.ones(m * slices) if chances is None else torch.tensor(chances)
    needed = torch.tensor(firsts(orders, alive), dtype=torch.long)
    if (never := needed[weights[needed] <= 0]).numel():
        raise BadValue(
            f"slice {int(never[0])} has no chance of a deletion and an order that begins with it, so deletions never use it up; give it a chance"
        )
    place, weights = places(orders).to(rng.device), weights.to(rng.device)
    left = alive.to(rng.device).repeat(runs, 1, 1)
    count, every = torch.zeros(runs, dtype=torch.long, device=rng.device), torch.arange(runs)
    while (going := left.amax((1, 2)) > 0).any():
        count += going
        hit = torch.multinomial(weights, runs, True, generator=rng)
        shard, slice_ = hit.div(slices, rounding_mode="floor"), hit % slices
        left[every, shard] = torch.minimum(left[every, shard], place[:, slice_].T)
    return count
