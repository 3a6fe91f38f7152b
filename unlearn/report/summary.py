"""What several reports say together: mean and interval of each score, and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearn.report import Report
from unlearn.report.interval import t_interval
from unlearn.report.words import number as number
from unlearn.report.words import percent as percent
from unlearn.report.yardstick import ACCURACY, YARDSTICKS, Yardstick
from unlearn.score import Aim, Score


@dataclass(frozen=True, slots=True)
class Cell:
    """One score over the seeds of a group.

    Attributes:
        score: Of the first seed: name, aim, unit, notes.
        values: One of each seed in which it is known.
        value: Their mean, or None.
        half: Half-width of the 95 % t-interval over seeds, or None with fewer than two.
        original: Mean before unlearning, or None.
        reference: Mean of the oracle, or None.
        gap: Mean distance from the oracle, seed by seed, or None.
        excess: Mean of value minus oracle's value, seed by seed, or None.
        doubt: Half-width of the 95 % interval of `excess`, or None where nothing is known of it.
        floor: Mean distance between two oracles, or None.
        low: Lower end of the interval: over seeds, or of the only seed's score.
        high: Upper end.
        interval: How the interval was made.
    """

    score: Score
    values: tuple[float, ...]
    value: float | None
    half: float | None
    original: float | None
    reference: float | None
    gap: float | None
    excess: float | None
    doubt: float | None
    floor: float | None
    low: float | None
    high: float | None
    interval: str

    @property
    def name(self) -> str:
        """Name of the score."""
        return self.score.name

    @property
    def floors(self) -> float | None:
        """Distance from the oracle in units of the floor: 1 is as far as a second oracle; None where one is unknown.

        Of a score that is a distance itself, its value in those units; an agreement has none.
        """
        far = self.value if self.score.aim is Aim.DOWN and self.reference is None else self.gap
        return None if far is None or not self.floor else far / self.floor


@dataclass(frozen=True, slots=True)
class Group:
    """Reports that differ in nothing but their seeds.

    Attributes:
        label: Method, and what tells it from the other groups.
        reports: One of each seed.
        cells: Scores over the seeds, in the order of the first report.
    """

    label: str
    reports: tuple[Report, ...]
    cells: tuple[Cell, ...]

    @property
    def first(self) -> Report:
        """The report of the first seed, whose pictures are shown."""
        return self.reports[0]

    @property
    def title(self) -> str:
        """Method, scenario and seeds."""
        return f"{self.label} on {self.first.scenario}, {seeds_text(self)}"

    @property
    def headline(self) -> tuple[Cell, ...]:
        """The scores of the first table."""
        return tuple(c for c in self.cells if c.score.headline) or self.cells

    @property
    def rest(self) -> tuple[Cell, ...]:
        """The other scores."""
        shown = {c.name for c in self.headline}
        return tuple(c for c in self.cells if c.name not in shown)

    @property
    def idle(self) -> bool:
        """Whether no weight changed in any seed."""
        return all(r.weights.get("unlearned") == r.weights.get("original") for r in self.reports)

    def cell(self, *names: str) -> Cell | None:
        """The score of the first of these names that there is, or None."""
        by_name = {c.name: c for c in self.cells}
        return next((by_name[n] for n in names if n in by_name), None)

    @property
    def yardstick(self) -> Yardstick:
        """What forgetting and keeping are measured by, from the scores that there are."""
        return next((y for y in YARDSTICKS if self.cell(y.forget) is not None), ACCURACY)

    @property
    def forget(self) -> Cell | None:
        """Accuracy or error on the forget set."""
        return self.cell(self.yardstick.forget)

    @property
    def held_out(self) -> Cell | None:
        """Accuracy or error on held-out examples of what is kept."""
        return self.cell(*self.yardstick.held)

    @property
    def attack(self) -> Cell | None:
        """AUC of the membership attack: of the headline, else any."""
        found = [
            c
            for c in self.cells
            if c.score.metric == "mia" and c.name.endswith("/auc") and c.value is not None
        ]
        return next((c for c in found if c.score.headline), found[0] if found else None)


def groups(reports: Sequence[Report]) -> list[Group]:
    """Reports grouped by scenario, step, method and hyper-parameters, in the order in which they come."""
    found: dict[str, list[Report]] = {}
    for r in reports:
        key = [r.recipe["scenario"], r.recipe.get("step", 0), r.recipe["method"]]
        found.setdefault(json.dumps(key, sort_keys=True), []).append(r)
    firsts = [rs[0] for rs in found.values()]
    return [Group(_label(rs[0], firsts), tuple(rs), _cells(rs)) for rs in found.values()]


def in_floors(cell: Cell) -> str:
    """The distance from the oracle in units of the floor, as in 1.8 ×; nothing where it is unknown."""
    return "" if cell.floors is None else f"{number(cell.floors)} ×"


def planned(group: Group) -> tuple[float, float] | None:
    """Seconds that were predicted for the runs of a group, and that they took, in the mean; None if nothing was."""
    known = [r.plan for r in group.reports if r.plan]
    return None if not known else (fmean(p["predicted"] for p in known), fmean(p["took"] for p in known))


def spread(cell: Cell) -> str:
    """A mean with its interval over seeds and its unit, as in 0.913 ± 0.008, or the value alone."""
    half = f" ± {number(cell.half)}" if cell.half is not None else ""
    unit = f" {cell.score.unit}" if cell.score.unit and cell.value is not None else ""
    return f"{number(cell.value)}{half}{unit}"


def bounds(cell: Cell) -> str:
    """The interval of a score, as in 0.90 to 0.95."""
    return "" if cell.low is None or cell.high is None else f"{number(cell.low)} to {number(cell.high)}"


def seeds_text(group: Group) -> str:
    """The seeds of a group in words."""
    kinds = [tuple(r.seeds.values()) for r in group.reports]
    if all(len(set(k)) == 1 for k in kinds):
        return ("seed " if len(kinds) == 1 else "seeds ") + ", ".join(str(k[0]) for k in kinds)
    return "seeds " + "; ".join(", ".join(f"{n} {v}" for n, v in r.seeds.items()) for r in group.reports)


def _cells(reports: Sequence[Report]) -> tuple[Cell, ...]:
    names = dict.fromkeys(s.name for r in reports for s in r.scores)
    return tuple(_cell([s for r in reports if (s := r.score(n)) is not None]) for n in names)


def _cell(scores: Sequence[Score]) -> Cell:
    first = scores[0]
    values = tuple(s.value for s in scores if s.value is not None)
    value, half = t_interval(values) if values else (None, None)
    low, high, made = first.low, first.high, first.interval
    if len(values) < 2:
        half = None
    if len(scores) > 1:
        low, high, made = None, None, ""
        if value is not None and half is not None:
            low, high, made = value - half, value + half, f"t 95 % over {len(values)} seeds"
    excess, doubt = _excess(scores)
    return Cell(first, values, value, half, _mean(scores, lambda s: s.original), _mean(scores, lambda s: s.reference),
                _mean(scores, lambda s: s.gap), excess, doubt, _mean(scores, lambda s: s.floor), low, high, made)  # fmt: skip


def _excess(scores: Sequence[Score]) -> tuple[float | None, float | None]:
    """Value minus the oracle's, and how uncertain that is.

    Over seeds, the t-interval of the differences; of one seed, its score's half-width times √2, because the
    oracle's value is as uncertain.
    """
    known = [s for s in scores if s.value is not None and s.reference is not None]
    if not known:
        return None, None
    mean, half = t_interval([s.value - s.reference for s in known])  # type: ignore[operator]
    if len(known) > 1:
        return mean, half
    low, high = known[0].low, known[0].high
    return mean, None if low is None or high is None else math.sqrt(2) * (high - low) / 2


def _mean(scores: Sequence[Score], of: Callable[[Score], float | None]) -> float | None:
    known = [v for s in scores if (v := of(s)) is not None]
    return fmean(known) if known else None


def _label(report: Report, all_: Sequence[Report]) -> str:
    """Method, with the hyper-parameters, scenario and step that tell it from the others."""
    values: dict[str, Any] = report.recipe["method"]["values"]
    peers = [r.recipe["method"]["values"] for r in all_ if r.method == report.method]
    telling = [k for k in values if any(p.get(k) != values[k] for p in peers)]
    extra = [f"{k}={values[k]}" for k in telling]
    if len({r.scenario for r in all_}) > 1:
        extra.append(report.scenario)
    if len({r.recipe.get("step", 0) for r in all_}) > 1:
        extra.append(f"step {report.recipe.get('step', 0) + 1}")
    return report.method + (f" ({', '.join(extra)})" if extra else "")
