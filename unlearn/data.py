"""Handles: the sets of examples that methods and metrics read.

A source holds examples; a handle is a choice of its rows that yields batches on the device. `Resident`
keeps the source in device memory and gathers by index; `Stream` fetches it one batch ahead. Both draw the
same order and the same crops from the same generator, so a method cannot tell them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from unlearn.errors import SealedError
from unlearn.sources import Arrays, Source, Transform, as_float, trusted

RESIDENT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples on one device.

    Attributes:
        x: Inputs, with shape (B, *).
        y: Targets, with shape (B,) or (B, *).
        index: Id of each example in its data set, with shape (B,).
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


@runtime_checkable
class Handle(Protocol):
    """A finite set of examples that yields batches on its device."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batches(self, size: int, rng: Generator | None = None, *, augment: bool = False) -> Iterator[Batch]:
        """One pass over the set; the last batch may be smaller.

        Args:
            size: Examples in a batch.
            rng: Shuffles if and only if it is given; on the handle's device.
            augment: Whether inputs are cropped and flipped, where the data have a way to; needs `rng`.
        """
        ...

    def only(self, ids: Tensor) -> Handle:
        """Those of its examples that have one of these ids, with shape (n,), in its own order."""
        ...


class Resident:
    """Examples kept whole in device memory and gathered by index: no workers, no copy for each step.

    Args:
        source: Where the examples are; tensors already on the device are shared, not copied.
        transform: Applied on the device after the gather.
        rows: Which examples, with shape (n,); all when not given.
        device: Where the examples live.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform = as_float,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        if not (isinstance(source, Arrays) and source.x.device == self.device):
            x = source.fetch(torch.arange(len(source)))
            source = trusted(self.device, x, source.y)
        self.source: Arrays = source
        self.transform = transform
        self.rows = torch.arange(len(source), device=self.device) if rows is None else rows.to(self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Resident:
        """The same memory seen through other rows of the source, with shape (n,)."""
        return Resident(self.source, self.transform, rows, self.device)

    def only(self, ids: Tensor) -> Resident:
        """See `Handle.only`."""
        return self.take(self.rows[torch.isin(self.rows, ids.to(self.device))])

    def relabeled(self, y: Tensor) -> Resident:
        """The same memory with other targets for the whole source, with shape (N,)."""
        return Resident(trusted(self.device, self.source.x, y), self.transform, self.rows, self.device)

    @property
    def y(self) -> Tensor:
        """Targets of the set, in order, with shape (n,) or (n, *)."""
        return self.source.y[self.rows]

    def batches(self, size: int, rng: Generator | None = None, *, augment: bool = False) -> Iterator[Batch]:
        """See `Handle.batches`."""
        for rows in _order(self.rows, rng).split(size):
            x = self.transform(self.source.fetch(rows), rng if augment else None)
            yield Batch(x, self.source.y[rows], rows)


class Stream:
    """Examples fetched from a source one batch ahead, for sets that do not fit on the device.

    Args:
        source: Where the examples are.
        transform: Applied on the device.
        rows: Which examples, with shape (n,); all when not given.
        device: Where batches are put.
        workers: Loader processes; 0 fetches in this one.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform = as_float,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.source, self.transform, self.workers = source, transform, workers
        self.device = torch.device(device)
        self.rows = torch.arange(len(source)) if rows is None else rows.cpu()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Stream:
        """Other rows of the same source, with shape (n,)."""
        return Stream(self.source, self.transform, rows, self.device, self.workers)

    def only(self, ids: Tensor) -> Stream:
        """See `Handle.only`."""
        return self.take(self.rows[torch.isin(self.rows, ids.cpu())])

    @property
    def y(self) -> Tensor:
        """Targets of the set, in order, with shape (n,) or (n, *)."""
        return self.source.y[self.rows]

    def batches(self, size: int, rng: Generator | None = None, *, augment: bool = False) -> Iterator[Batch]:
        """See `Handle.batches`."""
        order = _order(self.rows.to(self.device), rng).cpu()
        pinned = self.device.type == "cuda"
        loader = DataLoader(
            _Fetch(self.source),
            sampler=order.split(size),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=pinned,
            generator=torch.Generator(),  # or each pass would draw from the global one
        )
        moved = ([t.to(self.device, non_blocking=pinned) for t in item] for item in loader)
        for x, y, rows in _ahead(moved):
            yield Batch(self.transform(x, rng if augment else None), y, rows)


class _Fetch(Dataset[tuple[Tensor, Tensor, Tensor]]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self.source.fetch(rows), self.source.y[rows], rows


def handle(
    source: Source,
    transform: Transform = as_float,
    rows: Tensor | None = None,
    device: torch.device | str = "cpu",
    budget: int = RESIDENT_BYTES,
) -> Resident | Stream:
    """`Resident` where the source fits into `budget` bytes, else `Stream`."""
    one = source.fetch(torch.zeros(1, dtype=torch.long))
    size = one.nbytes * len(source)
    return (Resident if size <= budget else Stream)(source, transform, rows, device)


def paced(
    lead: Handle, follow: Handle, size: int, rng: Generator | None, *, augment: bool = False
) -> Iterator[tuple[Batch, Batch]]:
    """One pass over `lead`, each batch beside one of `follow`, which starts again when it runs out.

    Args:
        lead: The set that sets the pace: every example comes once.
        follow: The set that is cycled; newly shuffled each time around.
        size: Examples in a batch, of either set.
        rng: Shuffles both.
        augment: Whether inputs of both are cropped and flipped.
    """
    again = itertools.chain.from_iterable(
        follow.batches(size, rng, augment=augment) for _ in itertools.count()
    )
    for batch in lead.batches(size, rng, augment=augment):
        yield batch, next(again)


class Sealed:
    """Stands in for what a method did not declare: any use raises.

    Args:
        what: Name of the field or column.
        method: Name of the method, for the message.
    """

    __slots__ = ("_method", "_what")

    def __init__(self, what: str, method: str) -> None:
        self._what, self._method = what, method

    def __getattr__(self, name: str) -> NoReturn:
        raise SealedError(
            f"{self._method} read {self._what!r} but does not declare it; add {self._what!r} to its `uses` or stop reading it"
        )

    def __len__(self) -> int:
        return cast(int, self.__getattr__("len"))

    def __iter__(self) -> Iterator[Any]:
        return cast(Iterator[Any], self.__getattr__("iter"))

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("getitem")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A sealed column handed to a torch function raises as well."""
        flat = itertools.chain.from_iterable(a if isinstance(a, list | tuple) else (a,) for a in args)
        sealed = [a for a in (*flat, *(kwargs or {}).values()) if isinstance(a, Sealed)]
        return sealed[0].__getattr__("torch")


@dataclass(slots=True)
class Counted:
    """Counts the examples read through a handle.

    Attributes:
        read: Examples yielded so far.
        unlabeled: Name of the method to which the targets are sealed, or nothing.
        name: Name of the set, for the message of a sealed column.
    """

    _inner: Handle
    read: int = 0
    unlabeled: str = ""
    name: str = ""
    _whole: Counted | None = None

    def __len__(self) -> int:
        return len(self._inner)

    def batches(self, size: int, rng: Generator | None = None, *, augment: bool = False) -> Iterator[Batch]:
        """See `Handle.batches`."""
        for batch in self._inner.batches(size, rng, augment=augment):
            self._count(len(batch))
            if self.unlabeled:
                sealed = cast(Tensor, Sealed(f"{self.name}.y", self.unlabeled))
                batch = replace(batch, y=sealed)
            yield batch

    def only(self, ids: Tensor) -> Counted:
        """See `Handle.only`; what is read of it counts for the whole set."""
        return Counted(self._inner.only(ids), 0, self.unlabeled, self.name, self)

    def _count(self, n: int) -> None:
        self.read += n
        if self._whole is not None:
            self._whole._count(n)


@dataclass(frozen=True, slots=True)
class Gaussians:
    """Feature distribution of each class.

    Attributes:
        labels: Class ids, with shape (J,).
        mean: Class means, with shape (J, D).
        cov: Unbiased class covariances, with shape (J, D, D).
    """

    labels: Tensor
    mean: Tensor
    cov: Tensor


class Statistics(Protocol):
    """Lends class statistics of the retain set without lending an example of it."""

    def gaussians(self, power: float = 1.0) -> Gaussians:
        """Mean and covariance of each class over the original's features raised to `power`."""
        ...


class Peers(Protocol):
    """Lends models of the original's recipe that saw other examples; none is on display or judges the method.

    Attributes:
        read: Examples that the models were trained on, each as often as a model saw it; 0 until one is asked.
        seconds: What their training took.
    """

    read: int
    seconds: float

    def __len__(self) -> int:
        """How many, M."""
        ...

    def inside(self) -> tuple[Tensor, Tensor]:
        """Ids of all training examples (N,), and which models saw which of them, as bool with shape (M, N)."""
        ...

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs of each model in evaluation mode, float32 with shape (M, B, *)."""
        ...

    def clones(self) -> list[Any]:
        """A private clone of each model."""
        ...


def _no_prompts() -> Handle:
    """Where a trial has no concepts."""
    return cast(Handle, Sealed("prompts", "the method"))


def _no_peers() -> Peers:
    """Where no models are lent."""
    return cast(Peers, Sealed("pool", "the method"))


@dataclass(frozen=True, slots=True)
class Split:
    """What a method is lent; what it did not declare in `uses` is sealed.

    Attributes:
        forget: Training examples to be forgotten.
        retain: Training examples to be kept.
        validation: Held-out examples for stopping rules and searches; never test data.
        surrogate: Out-of-distribution inputs; their targets mean nothing.
        statistics: Class statistics of the retain set, computed by the bench and charged to the method.
        concept: Prompts that name the concept to be erased, as token ids in `y`. There are no inputs; where several
            concepts are erased at once, `x` is the number of each prompt's, with shape (P, 1).
        anchor: Prompts of what takes its place, one for each of `concept`.
        preserve: Prompts of concepts that must stay.
        pool: Models that the bench trains for the method, see `Method.wants`, and charges to it.
    """

    forget: Handle
    retain: Handle
    validation: Handle
    surrogate: Handle
    statistics: Statistics
    concept: Handle = field(default_factory=_no_prompts)
    anchor: Handle = field(default_factory=_no_prompts)
    preserve: Handle = field(default_factory=_no_prompts)
    pool: Peers = field(default_factory=_no_peers)


def _order(rows: Tensor, rng: Generator | None) -> Tensor:
    if rng is None:
        return rows
    return rows[torch.randperm(len(rows), generator=rng, device=rng.device).to(rows.device)]


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Keeps one item in flight, so that a copy to the device overlaps with the step before it."""
    held = next(items, None)
    for item in items:
        yield held
        held = item
    if held is not None:
        yield held
