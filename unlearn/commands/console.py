"""What the command line shows: progress bars, plain tables, JSON, one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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


class Bars:
    """Progress bars on standard error; a bar goes when its task is over.

    Args:
        inner: The rich progress display, already started.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def start(self, label: str, total: int | None) -> int:
        """See `unlearn.runtime.Progress`."""
        return int(self._inner.add_task(label, total=total))

    def advance(self, task: int) -> None:
        """See `unlearn.runtime.Progress`."""
        self._inner.advance(task)

    def stop(self, task: int) -> None:
        """See `unlearn.runtime.Progress`."""
        self._inner.remove_task(task)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars for the time of the block."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as inner:
        yield Bars(inner)
