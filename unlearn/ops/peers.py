"""Models that a method is lent: who saw what, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn.data import Batch
from unlearn.errors import Mismatch
from unlearn.subject import Predicts, mode


@dataclass(slots=True)
class Lent:
    """Models of one recipe, see `unlearn.data.Peers`.

    Attributes:
        subjects: The models, which nothing changes.
        ids: Ids of all training examples, with shape (N,).
        seen: Which models saw which of them, as bool with shape (M, N).
        seconds: What their training took.
        read: See `unlearn.data.Peers`.
    """

    subjects: Sequence[Predicts]
    ids: Tensor
    seen: Tensor
    seconds: float = 0.0
    read: int = 0

    def __len__(self) -> int:
        return len(self.subjects)

    def inside(self) -> tuple[Tensor, Tensor]:
        """See `unlearn.data.Peers.inside`."""
        self.read = int(self.seen.sum())
        return self.ids, self.seen

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Tensor:
        """See `unlearn.data.Peers.outputs`."""
        self.read = int(self.seen.sum())
        return torch.stack([_said(subject, batch) for subject in self.subjects])

    def clones(self) -> list[Any]:
        """See `unlearn.data.Peers.clones`."""
        self.read = int(self.seen.sum())
        return [subject.clone() for subject in self.subjects]


def places(ids: Tensor, index: Tensor) -> Tensor:
    """Positions (f,) in `ids` (N,) of some examples, given by their ids (f,).

    Raises:
        Mismatch: If one is not there.

    Example:
        >>> places(torch.tensor([7, 3, 5]), torch.tensor([5, 7])).tolist()
        [2, 0]
    """
    ordered, order = ids.sort()
    found = torch.searchsorted(ordered, index.to(ids)).clamp_max(len(ids) - 1)
    if bool((ordered[found] != index.to(ids)).any()):
        lost = index.to(ids)[ordered[found] != index.to(ids)]
        raise Mismatch(
            f"example {int(lost[0])} is no training example of the models that were lent, so nothing is known of its effect; lend models of the same training set"
        )
    return order[found]


def _said(subject: Predicts, batch: Batch) -> Tensor:
    with mode(subject.module, train=False):
        return subject.outputs(batch).float()
