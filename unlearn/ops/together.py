"""Two sets in one batch, so that a network and its batch norms see them mixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from unlearn.data import Batch, Handle


def in_proportion(
    a: Handle, b: Handle, size: int, rng: Generator, *, augment: bool = False
) -> Iterator[tuple[Batch | None, Batch | None]]:
    """One pass over two sets side by side, each batch with both in proportion to their numbers.

    Args:
        a: One set, of which every batch holds at least one example while it lasts.
        b: The other, likewise.
        size: Examples of both in a batch; two where it is one.
        rng: Shuffles both.
        augment: Whether inputs are cropped and flipped.

    Yields:
        A batch of each, or None once the set is through.
    """
    of_a = min(max(1, round(size * len(a) / (len(a) + len(b)))), max(1, size - 1))
    of_b = max(1, size - of_a)
    return itertools.zip_longest(a.batches(of_a, rng, augment=augment), b.batches(of_b, rng, augment=augment))


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, in order."""
    x, y, index = zip(*((b.x, b.y, b.index) for b in batches), strict=True)
    return Batch(torch.cat(x), torch.cat(y), torch.cat(index))


def shuffled(batch: Batch, rows: Tensor, size: int, rng: Generator) -> Iterator[Batch]:
    """Some examples of a batch in random order, `size` at a time.

    Args:
        batch: The examples.
        rows: Which of them, with shape (n,); one that is named several times comes several times.
        size: Examples yielded at a time.
        rng: Shuffles.
    """
    order = torch.randperm(len(rows), generator=rng, device=rng.device).to(rows.device)
    for some in rows[order].split(size):
        yield Batch(batch.x[some], batch.y[some], batch.index[some])
