"""What the workbench lends a method for one run: randomness, a device, progress, a log, a deadline."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from unlearn.errors import BadValue, OutOfMemory, OutOfTime

T = TypeVar("T")
ALLOCATORS = ("DefaultCPUAllocator", "MPS backend out of memory")
"""Words in what torch raises when memory is short, where it has no class for it."""


class Progress(Protocol):
    """Draws progress; the default draws nothing."""

    def start(self, label: str, total: int | None) -> int:
        """Begins a task of `total` steps and returns its id."""
        ...

    def advance(self, task: int, by: float = 1.0) -> None:
        """One step is done, or so much of some."""
        ...

    def stop(self, task: int) -> None:
        """The task is over, finished or not."""
        ...


class Silent:
    """Progress that draws nothing."""

    def start(self, label: str, total: int | None) -> int:
        """See `Progress.start`."""
        return 0

    def advance(self, task: int, by: float = 1.0) -> None:
        """See `Progress.advance`."""

    def stop(self, task: int) -> None:
        """See `Progress.stop`."""


class Part:
    """Progress of a part of somebody's task: whatever it shows moves that one bar, by so much in all.

    What is started first counts, by the share of its total; what is started inside or afterwards draws nothing.

    Args:
        outer: Draws the bar.
        task: Its id.
        size: Of the part, in steps of the bar.
    """

    def __init__(self, outer: Progress, task: int, size: float = 1.0) -> None:
        self._outer, self._task, self._left, self._size = outer, task, size, size
        self._started, self._share = 0, 0.0

    def start(self, label: str, total: int | None) -> int:
        """See `Progress.start`."""
        self._started += 1
        if self._started == 1 and total:
            self._share = self._size / total
        return self._started

    def advance(self, task: int, by: float = 1.0) -> None:
        """See `Progress.advance`."""
        if task == 1:
            self._move(by * self._share)

    def stop(self, task: int) -> None:
        """See `Progress.stop`."""

    def close(self) -> None:
        """The part is done: the bar moves by what is left of it."""
        self._move(self._left)

    def _move(self, by: float) -> None:
        if (by := min(by, self._left)) > 0:
            self._left -= by
            self._outer.advance(self._task, by)


@dataclass(slots=True)
class Run:
    """One run's randomness and surroundings.

    Attributes:
        seed: Seed of `rng`.
        device: Where models and data live.
        progress: Draws progress.
        deadline: `time.monotonic()` value after which `track` raises, or None.
        task: Label of progress bars; replaces the one given to `track`.
        log: Scalars by name, one for each call of `note`.
        remarks: What a reader of the report must know of this run, in sentences; see `remark`.
        rng: Generator on the device; the only source of randomness of a method.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = field(default_factory=Silent)
    deadline: float | None = None
    task: str = ""
    log: dict[str, list[float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    rng: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = torch.Generator(self.device).manual_seed(self.seed)

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yields the items, showing progress and watching the deadline.

        Raises:
            OutOfTime: Before the first item after the deadline.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        with self._task(self.task or label, total) as task:
            for item in items:
                if self.deadline is not None and time.monotonic() > self.deadline:
                    raise OutOfTime(
                        f"{label}: the time that was given is over; allow more with --minutes or ask for fewer epochs"
                    )
                yield item
                self.progress.advance(task)

    def note(self, **scalars: float) -> None:
        """Adds one value to the log of each name."""
        for name, value in scalars.items():
            self.log.setdefault(name, []).append(float(value))

    def remark(self, sentence: str) -> None:
        """Puts a sentence among the notes of the report, such as on a term that this model leaves without effect."""
        self.remarks.append(sentence)

    @contextmanager
    def _task(self, label: str, total: int | None) -> Iterator[int]:
        task = self.progress.start(label, total)
        try:
            yield task
        finally:
            self.progress.stop(task)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Computes with n threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def within_memory() -> Iterator[None]:
    """Says in one line that memory did not suffice, and what to lower.

    Raises:
        OutOfMemory: Where an allocator of torch failed inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as err:
        short = isinstance(err, MemoryError | torch.OutOfMemoryError) or any(
            w in str(err) for w in ALLOCATORS
        )
        if isinstance(err, OutOfMemory) or not short:
            raise
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise OutOfMemory(
            f"memory does not suffice: {said}; lower the method's batch size or pool, the number or size of drawings, or give another --device"
        ) from err


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        BadValue: If the device is not there.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type, False):
        raise BadValue(
            f"no device {name!r} here; there are: auto, {', '.join(k for k, v in there.items() if v)}"
        )
    return device


@contextmanager
def seeded_globals(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global generators of torch, NumPy and Python, and restores them afterwards.

    Library code that draws from them (dropout, samplers) is then reproducible too. On CUDA, kernels are
    made deterministic as well.
    """
    python, array = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Fills in, afterwards, the peak memory in bytes above what was in use before."""
    peak = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    before = _resident("VmRSS")
    _reset_peak()
    yield peak
    peak[0] = max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    """Memory of this process in bytes: `VmRSS` now, `VmHWM` at its peak."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        return 0
    try:
        import resource
    except ImportError:  # Windows cannot tell
        return 0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _reset_peak() -> None:
    """Makes Linux count the peak from now on; elsewhere the peak is that of the whole process."""
    try:
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
