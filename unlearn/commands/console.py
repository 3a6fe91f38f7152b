"""What the command line shows: progress bars, plain tables, JSON, one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import rich
from rich.console import Console


def say(text: str) -> None:
    """One line for a person, on standard output."""
    rich.get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """JSON for a program, on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")


def note(text: str) -> None:
    """One line on standard error of what a person should know, and what is no error."""
    sys.stderr.write(f"note: {' '.join(text.split())}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A plain table on standard output."""
    from rich.table import Table

    grid = Table(
        *columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for row in rows:
        grid.add_row(*(cell.replace("[", r"\[") for cell in row))
    rich.get_console().print(grid)


def remaining(elapsed: float, done: float, total: float | None) -> float | None:
    """Seconds that a task still takes if it goes on as it did on the whole; None where that is unknown.

    An estimate from its latest steps would say that nothing is left whenever several come at once, as models do that
    are trained together.

    Args:
        elapsed: Seconds since it began.
        done: Steps that are done, or parts of them.
        total: Of all steps.

    Example:
        >>> remaining(30.0, 8, 32), remaining(30.0, 0, 32)
        (90.0, None)
    """
    if total is None or done <= 0:
        return None
    return elapsed * max(0.0, total - done) / done


class Bars:
    """Progress bars on standard error; a bar goes when its task is over.

    Args:
        inner: The rich progress display, already started.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._done: dict[int, float] = {}

    def start(self, label: str, total: int | None) -> int:
        """See `unlearn.runtime.Progress`."""
        task = int(self._inner.add_task(label, total=total))
        self._done[task] = 0.0
        return task

    def advance(self, task: int, by: float = 1.0) -> None:
        """See `unlearn.runtime.Progress`."""
        self._done[task] += by
        self._inner.update(task, completed=round(self._done[task], 6))  # thirds that add up show as one

    def stop(self, task: int) -> None:
        """See `unlearn.runtime.Progress`."""
        self._inner.remove_task(task)


def columns() -> tuple[Any, ...]:
    """What a bar shows: its name, how far it is, and how long it took and will take."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class Left(ProgressColumn):
        """The remaining time by `remaining`."""

        def render(self, task: Task) -> Text:
            """The cell of a bar."""
            left = remaining(task.elapsed or 0.0, task.completed, task.total)
            return Text(
                "-:--:--" if left is None else str(timedelta(seconds=round(left))), "progress.remaining"
            )

    return (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Left(),
    )


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars for the time of the block."""
    from rich.progress import Progress

    screen = Console(stderr=True)
    with Progress(*columns(), console=screen, transient=True, disable=not screen.is_terminal) as inner:
        yield Bars(inner)
