"""What methods may ask of a model that was trained so that examples can be deleted from it: protocols."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from unlearn.data import Handle
from unlearn.runtime import Run
from unlearn.subject import HasLoss, Subject


@runtime_checkable
class Sliced(Subject, Protocol):
    """Trained in slices, so that examples can be deleted exactly.

    Which slice an example is in follows from its id alone, and what a stage draws from seeds that the model keeps, so
    that deleting and never having seen are the same, bit for bit.
    """

    def slices(self) -> list[Tensor]:
        """Ids of the examples of each slice, shard after shard."""
        ...

    def drop(self, ids: Tensor) -> None:
        """Takes examples out, and erases every stage that was trained on their slices.

        Raises:
            BadValue: If it does not know one of them.
        """
        ...

    def orders(self) -> tuple[tuple[int, ...], ...]:
        """The orders in which each shard learns its slices."""
        ...

    def left(self) -> Tensor:
        """Stages that each order of each shard has left, with shape (shards, orders)."""
        ...

    def resume(self, handle: Handle, run: Run) -> None:
        """Trains the stages that are missing, on its examples as `handle` holds them, by the seeds that it keeps."""
        ...

    def again(self, handle: Handle, run: Run) -> None:
        """Trains all of it anew on these examples, by the seeds that it keeps."""
        ...


@runtime_checkable
class Recorded(Subject, Protocol):
    """Trained with a record of what each step changed, and of the examples in its batch."""

    def steps_with(self, ids: Tensor) -> Tensor:
        """Numbers of the recorded steps whose batch held one of these examples, in order.

        Raises:
            BadValue: If the steps of one of them were not recorded.
        """
        ...

    def subtract(self, steps: Tensor) -> None:
        """Takes what these steps changed out of the weights, and their record with it."""
        ...

    def stored(self) -> int:
        """Bytes of the record."""
        ...


@runtime_checkable
class RecordedWithLoss(Recorded, HasLoss, Protocol):
    """Has a record of its training and knows its loss: what subtracting steps and training on needs."""
