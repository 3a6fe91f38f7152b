"""Sets read class after class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unlearn.data import Batch, Handle
from unlearn.errors import Mismatch


@dataclass(frozen=True, slots=True)
class ByClass:
    """The same examples in the order of their classes; batches run on from one class into the next.

    Each pass reads the set once more to learn its targets. A batch holds its examples as they are stored.

    Attributes:
        of: The set.
    """

    of: Handle

    def __len__(self) -> int:
        return len(self.of)

    def batches(self, size: int, rng: Generator | None = None, *, augment: bool = False) -> Iterator[Batch]:
        """See `Handle.batches`; a generator shuffles within each batch alone.

        Raises:
            Mismatch: If targets are no class ids.
        """
        seen = [(b.index, b.y) for b in self.of.batches(size)]
        index, y = (torch.cat(part) for part in zip(*seen, strict=True))
        if y.ndim != 1 or y.is_floating_point():
            raise Mismatch(
                f"an order by class needs class ids, and targets here are {y.dtype} with shape {tuple(y.shape)}; keep the order in which examples are stored"
            )
        for ids in index[y.argsort(stable=True)].split(size):
            yield from self.of.only(ids).batches(size, rng, augment=augment)

    def only(self, ids: Tensor) -> ByClass:
        """See `Handle.only`."""
        return ByClass(self.of.only(ids))
