"""Reports as tables on a terminal; nothing is printed but to the console that is given."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from unlearn.report import Report
from unlearn.report.held import Held, held
from unlearn.report.summary import Cell, Group, bounds, groups, in_floors, number, planned
from unlearn.report.verdict import LIMITS, judge, overall

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 100  # columns of a terminal for scores with floors and intervals
LABELS, WIDEST = 36, 15  # columns of a terminal: names, aim and oracle; one method
STATES = {"pass": "green", "fail": "red", "cannot tell": "yellow"}
STYLES = {"forgotten": "green", "not": "red", "visible": "red", "nothing": "red", "destroyed": "red"}


def show(console: Console, reports: Sequence[Report], every: bool = False) -> None:
    """The verdict and what fits the number of methods: one table of scores and costs, or a comparison.

    Args:
        console: Where to print.
        reports: At least one.
        every: Whether to show the scores below the headline, too.
    """
    from rich.text import Text

    found = groups(reports)
    if len(found) == 1:
        one(console, found[0], every)
    else:
        compare(console, found)
    said = overall(found)
    console.print(
        Text(f"{said.words}. ", style=f"bold {STYLES.get(said.kind, 'yellow')}")
        + Text(f"{said.text} {LIMITS}")
    )


def one(console: Console, group: Group, every: bool = False) -> None:
    """Scores of one method beside those of the oracle, headline first, and its costs."""
    console.print(scores(group.headline, group.title, console.width))
    if every and group.rest:
        console.print(scores(group.rest, "\nMore scores", console.width))
    console.print()
    console.print(costs(group))
    console.print()
    if (found := held(group.reports)) is not None:
        asked(console, found)


def asked(console: Console, found: Held) -> None:
    """What a policy asks, criterion by criterion, and what the scores show."""
    from rich.text import Text

    for line in found.lines:
        mark = Text(f"{line.mark}: ", style=f"bold {STATES[line.state]}")
        console.print(mark + Text(f"{line.why or line.asked} ({line.asked}; {line.said})"))
    console.print(Text(found.words, style="bold"))
    console.print()


def compare(console: Console, found: Sequence[Group]) -> None:
    """Rows are the headline scores and the verdict, columns the oracle and the methods.

    Cells are means, with the half-width of the interval over seeds. Where the methods do not fit beside each
    other, they go on in a table below.
    """
    fit = max(1, (console.width - LABELS) // WIDEST)
    for k in range(0, len(found), fit):
        console.print(_beside(found[k : k + fit]))
        console.print()


def _beside(found: Sequence[Group]) -> Table:
    first = {c.name: c for g in found for c in reversed(g.headline)}
    names = list(dict.fromkeys(c.name for g in found for c in g.headline))
    table = _table("", ["score", "aim", "oracle", *(g.label for g in found)])
    for name in names:
        known = (c.reference for g in found if (c := g.cell(name)) is not None)
        reference = next((r for r in known if r is not None), None)
        cells = [_mean(g.cell(name)) for g in found]
        _row(table, [name, first[name].score.aim.sign, number(reference), *cells])
    seconds = [number(sum(r.costs.charged for r in g.reports) / len(g.reports)) for g in found]
    _row(table, ["seconds", "↓", "", *seconds])
    policies = [held(g.reports) for g in found]
    if any(policies):
        _row(table, ["policy", "", "", *(p.state if p else "–" for p in policies)])
    _row(table, ["verdict", "", "", *("\n".join(wrap(judge(g).words, WIDEST - 2)) for g in found)])
    return table


def scores(cells: Sequence[Cell], title: str, width: int = 120) -> Table:
    """A table of scores: original, unlearned, oracle, gap, floor where one is known, aim, 95 % interval.

    The gap in units of the floor stands beside the floor. Where floors are known and `width` columns are too few, these
    units and the interval are left out rather than cut.
    """
    floored = any(c.floor is not None for c in cells)
    wide = width >= WIDE
    floor = ["floor", *(["in floors"] if wide else [])] if floored else []
    ends = ["95 %"] if not floored or wide else []
    table = _table(title, ["score", "original", "unlearned", "oracle", "gap", *floor, "aim", *ends])
    for c in cells:
        known = [number(c.floor), in_floors(c)][: len(floor)]
        _row(table, [c.name, number(c.original), _mean(c), number(c.reference), number(c.gap), *known,
                     c.score.aim.sign, *([bounds(c).replace(" to ", "–")] if ends else [])])  # fmt: skip
    return table


def costs(group: Group) -> Table:
    """What the unlearning call cost, in the mean over seeds."""
    all_ = [r.costs for r in group.reports]
    mean = {k: sum(getattr(c, k) for c in all_) / len(all_) for k in ("seconds", "peak_bytes", "changed")}
    oracle = [c.oracle_seconds for c in all_ if c.oracle_seconds is not None]
    lent = [c.pool_seconds for c in all_ if c.pool_seconds is not None]
    read = ", ".join(f"{name} {n:,}" for name, n in all_[0].read.items()) or "none"
    expected = [] if (p := planned(group)) is None else [f"{p[0]:.0f} s", f"{p[1]:.0f} s"]
    table = _table("", ["seconds", *(["models lent"] if lent else []), "retraining", "peak MiB", "changed", "examples read",
                        *(["planned", "took"] if expected else [])])  # fmt: skip
    _row(table, [number(mean["seconds"]), *([number(sum(lent) / len(lent))] if lent else []), number(sum(oracle) / len(oracle)) if oracle else "–",
                 f"{mean['peak_bytes'] / 2**20:.1f}", f"{100 * mean['changed']:.1f} %", read, *expected])  # fmt: skip
    return table


def _mean(cell: Cell | None) -> str:
    """A mean with its half-width over seeds."""
    if cell is None:
        return "–"
    return number(cell.value) + (f" ±{number(cell.half)}" if cell.half is not None else "")


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
    )
    for k, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if k == 0 else "right", overflow="fold", no_wrap=True)
    return table


def _row(table: Table, cells: Sequence[str], style: str = "") -> None:
    from rich.text import Text

    table.add_row(*(Text(c) for c in cells), style=style or None)
