"""Commands that make results: run and replay."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich

from unlearn import api
from unlearn.bench import Bench
from unlearn.commands import console
from unlearn.commands.options import chosen_options
from unlearn.errors import StoreError
from unlearn.ops.weights import save_like
from unlearn.registry import scenarios
from unlearn.report import Report
from unlearn.scenario import Scenario
from unlearn.store import Store
from unlearn.subject import Subject


def scenario(text: str, forget: str, own: Mapping[str, Any]) -> Scenario:
    """The scenario of a command: its text, the request that replaces its own, and the options given."""
    options = chosen_options(own, scenarios.get(text.partition("/")[0]))
    return api.as_scenario(text, forget, **options)


def save(subject: Subject, out: Path) -> None:
    """Writes unlearned weights in the format that they came in."""
    try:
        save_like(subject, out)
    except OSError as err:
        raise StoreError(
            f"cannot write {out}: {err.strerror or err}; choose another place with --out"
        ) from err


def write_page(reports: Sequence[Report], html: Path | None, store: Store) -> Path:
    """Renders reports as one page.

    Args:
        reports: What to show.
        html: Where to write it; by default in the store, by content.
        store: The store.

    Raises:
        StoreError: If the place cannot be written.
    """
    from unlearn.report import html as page

    name = hashlib.sha256(" ".join(r.id for r in reports).encode()).hexdigest()[:16]
    path = html or store.root / "pages" / f"{name}.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page.render(reports), encoding="utf-8")
    except OSError as err:
        raise StoreError(
            f"cannot write {path}: {err.strerror or err}; choose another place with --html"
        ) from err
    return path


def show(reports: Sequence[Report], page: Path, out: Path | None, json: bool) -> None:
    """Prints reports as tables, or as JSON; last comes the page's path."""
    from unlearn.report import summary, table

    if json:
        console.say_json([r.model_dump(mode="json") for r in reports])
        return
    screen = rich.get_console()
    if len(reports) == 1:
        table.print_run(screen, reports[0])
    else:
        table.print_comparison(screen, reports)
    console.say(summary.verdict(reports))
    if out is not None:
        console.say(f"Unlearned weights: {out}")
    console.say(f"Report: {page}")


def replay(file: Path, bench: Bench) -> tuple[bool, Report]:
    """Makes a report's run again; whether the weights are the same, and the new report."""
    again, same = api.replay(Report.load(file), bench)
    return same, again
