"""Commands that show results again: report and compare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich

from unlearn.commands import console
from unlearn.errors import BadValue
from unlearn.report import Report, schema
from unlearn.report.summary import Group, groups
from unlearn.store import Store


def load(runs: Sequence[str], store: Store) -> list[Report]:
    """Reports by file, or by the beginning of their address in the store."""
    return [x for r in runs for x in (Report.load_all(Path(r)) if Path(r).is_file() else [_stored(store, r)])]


def report(
    runs: Sequence[str], html: Path | None, markdown: bool, as_schema: bool, where: Path | None, json: bool
) -> None:
    """Shows reports as tables, a page, markdown or JSON."""
    if as_schema:
        console.say_json(schema())
        return
    if not runs:
        raise BadValue(
            "report: name a report file or an address; `unlearn store ls` lists what the store holds"
        )
    reports = load(runs, open_store(where))
    if json:
        console.say_json([r.model_dump(mode="json") for r in reports])
    elif markdown:
        from unlearn.report import markdown as text

        sys.stdout.write(text.render(reports))
    elif html is not None:
        _write(reports, html)
    else:
        from unlearn.report import table

        table.show(rich.get_console(), reports, every=True)


def compare(runs: Sequence[str], html: Path | None, where: Path | None, json: bool) -> None:
    """Puts several runs into one table."""
    reports = load(runs, open_store(where))
    if len(reports) < 2:
        raise BadValue(
            "compare: name at least two report files or addresses; `unlearn store ls` lists what the store holds"
        )
    if json:
        console.say_json([_entry(g) for g in groups(reports)])
        return
    from unlearn.report import table

    table.show(rich.get_console(), reports)
    if html is not None:
        _write(reports, html)


def _entry(group: Group) -> dict[str, Any]:
    """One method of a comparison as JSON: means over its seeds, with intervals."""
    cells = {
        c.name: {
            "value": c.value,
            "half": c.half,
            "original": c.original,
            "reference": c.reference,
            "gap": c.gap,
        }
        for c in group.cells
    }
    return {
        "method": group.label,
        "scenario": group.first.scenario,
        "seeds": len(group.reports),
        "scores": cells,
    }


def open_store(where: Path | None) -> Store:
    """The store at a path, else in the user's cache folder; as `unlearn.api.open_store`, without torch."""
    import platformdirs

    return Store((where or platformdirs.user_cache_path("unlearn")).expanduser())


def _stored(store: Store, prefix: str) -> Report:
    return Report.load(store.named("report", prefix).path / "report.json")


def _write(reports: Sequence[Report], html: Path) -> None:
    from unlearn.report import html as page

    page.write(reports, html)
    console.say(f"Report: {html}")
