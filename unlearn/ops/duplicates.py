"""Near-duplicates: examples that lie much closer to one another than examples usually do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROWS = 2048  # distances that are held at once, times the size of the other set
NEAR = 0.05
"""Share of the usual distance to the nearest neighbour below which two examples are near-duplicates."""


def nearest(x: Tensor, others: Tensor, same: bool = False) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest of other points, and which it is, both with shape (N,).

    Args:
        x: Points, with shape (N, D).
        others: Points, with shape (M, D).
        same: Whether both are one set, in which no point is its own neighbour.
    """
    others = others.double()
    found = []
    for rows in torch.arange(len(x)).split(ROWS):
        d = torch.cdist(x[rows].double(), others, compute_mode="donot_use_mm_for_euclid_dist")
        if same:
            d[torch.arange(len(rows)), rows] = torch.inf
        found.append(d.min(1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def in_both(groups: Sequence[str], here: Tensor, there: Tensor) -> list[str]:
    """Groups with examples in two sets, sorted.

    Args:
        groups: Owner of each of N examples.
        here: One set, as a mask of shape (N,).
        there: The other, as a mask of shape (N,).

    Example:
        >>> in_both(["ann", "bob", "ann"], torch.tensor([True, False, False]), torch.tensor([False, True, True]))
        ['ann']
    """
    mine, theirs = ({groups[i] for i in mask.nonzero().flatten().tolist()} for mask in (here, there))
    return sorted(mine & theirs)


def near_duplicates(x: Tensor, others: Tensor, share: float = NEAR) -> tuple[Tensor, Tensor]:
    """Which points have a near-duplicate among others, and the nearest of these, both with shape (N,).

    Near is a distance of at most `share` times the median distance of the others to their nearest neighbours.

    Args:
        x: Points, with shape (N, D).
        others: Points, with shape (M, D), M at least 2.
        share: See `NEAR`.

    Example:
        >>> line = torch.arange(10.0)[:, None]
        >>> near_duplicates(torch.tensor([[2.01], [2.5]]), line)[0].tolist()
        [True, False]
    """
    usual = nearest(others, others, same=True)[0].median()
    distance, which = nearest(x, others)
    return distance <= share * usual, which
