"""What several reports say together: mean and interval of each score, and a verdict in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from unlearn.report import Report
from unlearn.report.interval import t_interval
from unlearn.score import Aim, Score

FORGET_WITHIN = 0.05
"""Forget accuracy counts as the oracle's within this distance."""
ATTACK_WITHIN = 0.05
"""The attack's AUC counts as the oracle's within this distance."""
KEPT_WITHIN = 0.02
"""Held-out accuracy counts as kept when it is at most this much below the oracle's."""
COLLAPSE = 0.9
"""A model is destroyed when its held-out accuracy is below this share of the reference's."""

CRITERIA = (
    f"Forgotten: accuracy on the forget set within {100 * FORGET_WITHIN:g} points of the oracle's, and the AUC of the "
    f"membership attack within {ATTACK_WITHIN:g} of the oracle's, on either side: a model that answers forgotten "
    f"examples worse than one that never saw them gives them away as well. Kept: held-out accuracy at most "
    f"{100 * KEPT_WITHIN:g} points below the oracle's. Destroyed: in any seed below {100 * COLLAPSE:g} % of the "
    f"reference's. The oracle is the model retrained without the forget set; without it nobody can tell."
)
LIMITS = "Unlearning is approximate and this evidence is empirical: it is no certificate."

Kind = Literal["forgotten", "partly", "over", "not", "nothing", "destroyed", "unknown"]
WORDS: dict[Kind, str] = {
    "forgotten": "Forgotten and kept",
    "partly": "Forgotten, but at a price",
    "over": "Over-forgotten",
    "not": "Not forgotten",
    "nothing": "Nothing happened",
    "destroyed": "Destroyed",
    "unknown": "Cannot tell",
}


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
    floor: float | None
    low: float | None
    high: float | None
    interval: str

    @property
    def name(self) -> str:
        """Name of the score."""
        return self.score.name


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
    def forget(self) -> Cell | None:
        """Accuracy on the forget set."""
        return self.cell("accuracy/forget")

    @property
    def held_out(self) -> Cell | None:
        """Accuracy on held-out examples of what is kept."""
        return self.cell("accuracy/test_retain", "accuracy/test")

    @property
    def attack(self) -> Cell | None:
        """AUC of the membership attack: of the headline, else any."""
        found = [c for c in self.cells if c.score.metric == "mia" and c.name.endswith("/auc") and c.value is not None]
        return next((c for c in found if c.score.headline), found[0] if found else None)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the scores of one group mean.

    Attributes:
        kind: One of the keys of `WORDS`.
        text: The reasons, in sentences.
    """

    kind: Kind
    text: str

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        return WORDS[self.kind]


def groups(reports: Sequence[Report]) -> list[Group]:
    """Reports grouped by scenario, step, method and hyper-parameters, in the order in which they come."""
    found: dict[str, list[Report]] = {}
    for r in reports:
        key = [r.recipe["scenario"], r.recipe.get("step", 0), r.recipe["method"]]
        found.setdefault(json.dumps(key, sort_keys=True), []).append(r)
    firsts = [rs[0] for rs in found.values()]
    return [Group(_label(rs[0], firsts), tuple(rs), _cells(rs)) for rs in found.values()]


def judge(group: Group) -> Judgement:
    """The verdict on one group; the thresholds are the constants of this module."""
    forget, held, attack = group.forget, group.held_out, group.attack
    if group.idle:
        return Judgement("nothing", f"Not one weight changed.{_told(forget, 'answers', 'of the forgotten examples correctly')}")
    if forget is None or held is None or forget.value is None or held.value is None:
        return Judgement("unknown", f"This subject is not measured by accuracy, so no threshold applies.{_gaps(group)}")
    kept = f"{percent(held.value)} of held-out examples are answered correctly"
    if (broken := collapsed(group)) > 0:
        where = "" if len(group.reports) == 1 else f" in {broken} of {len(group.reports)} seeds"
        against = held.reference if held.reference is not None else held.original
        return Judgement("destroyed", f"The model is broken{where}: {kept}, against {percent(against)} before or retrained. "
                         "What such a model no longer knows says nothing about forgetting.")  # fmt: skip
    if forget.reference is None or held.reference is None:
        return Judgement("unknown", f"There is no retrained model to compare with. Accuracy on the forget set went from "
                         f"{percent(forget.original)} to {percent(forget.value)}, held-out accuracy from "
                         f"{percent(held.original)} to {percent(held.value)}.")  # fmt: skip
    kind, why = _forgetting(group, forget, attack)
    loss = held.reference - held.value
    utility = f"{kept}, by the oracle {percent(held.reference)}"
    if kind == "forgotten" and loss > KEPT_WITHIN:
        kind, utility = "partly", f"But the rest suffered: {utility}"
    elif loss > KEPT_WITHIN:
        utility = f"The rest suffered as well: {utility}"
    return Judgement(kind, f"{why} {utility}.{_doubt(group)}")


def verdict(reports: Sequence[Report]) -> str:
    """The verdict in plain words: of one method its reasons, of several who did what."""
    found = groups(reports)
    if len(found) == 1:
        said = judge(found[0])
        return f"{said.words}. {said.text} {LIMITS}"
    by_kind: dict[str, list[str]] = {}
    for group in found:
        by_kind.setdefault(judge(group).words, []).append(group.label)
    order = [w for w in WORDS.values() if w in by_kind]
    parts = [f"{words}: {', '.join(by_kind[words])}." for words in order]
    none = "" if WORDS["forgotten"] in by_kind else f"None of the {len(found)} forgot as the oracle and kept the rest. "
    return f"{none}{' '.join(parts)} {LIMITS}"


def collapsed(group: Group) -> int:
    """In how many seeds held-out accuracy is below `COLLAPSE` times the oracle's, or the original's without one."""
    held = group.held_out
    scores = [r.score(held.name) for r in group.reports] if held else []
    return sum(_below(s) for s in scores if s is not None)


def percent(value: float | None) -> str:
    """A share as a percentage, for sentences."""
    return "an unknown share" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A number for tables; a dash for what is not known.

    Example:
        >>> number(0.95638), number(1234.5), number(0.00002), number(None)
        ('0.956', '1,234', '2.0e-05', '–')
    """
    if value is None:
        return "–"
    size = abs(value)
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def spread(cell: Cell) -> str:
    """A mean with its interval over seeds, as in 0.913 ± 0.008, or the value alone."""
    return number(cell.value) + (f" ± {number(cell.half)}" if cell.half is not None else "")


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
    return Cell(first, values, value, half, _mean(scores, lambda s: s.original), _mean(scores, lambda s: s.reference),
                _mean(scores, lambda s: s.gap), _mean(scores, lambda s: s.floor), low, high, made)  # fmt: skip


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


def _forgetting(group: Group, forget: Cell, attack: Cell | None) -> tuple[Kind, str]:
    """Whether the forget set is treated as by the oracle, and why."""
    assert forget.value is not None and forget.reference is not None
    why = [f"{percent(forget.value)} of the forgotten examples are answered correctly, by a model retrained without them "
           f"(the oracle) {percent(forget.reference)}"]  # fmt: skip
    distances = [(forget.value - forget.reference) / FORGET_WITHIN]
    if attack is not None and attack.value is not None and attack.reference is not None:
        why.append(f"the membership attack reaches an AUC of {attack.value:.2f}, on the oracle {attack.reference:.2f}")
        distances.append((attack.value - attack.reference) / ATTACK_WITHIN)
    else:
        why.append("no membership attack was compared with the oracle, so privacy is not judged")
    text = f"{'; '.join(why)}."
    if max(distances) > 1:
        return "not", text
    if min(distances) < -1:
        return "over", f"{text} Doing worse on them than a model that never saw them gives them away."
    return "forgotten", text


def _doubt(group: Group) -> str:
    """A sentence where an interval reaches across a threshold."""
    checks = ((group.forget, FORGET_WITHIN, FORGET_WITHIN), (group.attack, ATTACK_WITHIN, ATTACK_WITHIN),
              (group.held_out, KEPT_WITHIN, float("inf")))  # fmt: skip
    torn = [c.name for c, down, up in checks if c is not None and _torn(c, down, up)]
    if not torn:
        return ""
    return f" The interval of {' and '.join(torn)} reaches across a threshold: more seeds or more data may change this verdict."


def _torn(cell: Cell, down: float, up: float) -> bool:
    if cell.low is None or cell.high is None or cell.reference is None:
        return False
    return any(cell.low < cell.reference + edge < cell.high for edge in (-down, up))


def _below(score: Score) -> bool:
    against = score.reference if score.reference is not None else score.original
    return score.value is not None and against is not None and score.value < COLLAPSE * against


def _told(cell: Cell | None, verb: str, what: str) -> str:
    if cell is None or cell.value is None:
        return ""
    oracle = "" if cell.reference is None else f"; the oracle {percent(cell.reference)}"
    return f" The model still {verb} {percent(cell.value)} {what}{oracle}."


def _gaps(group: Group) -> str:
    known = [c for c in group.headline if c.score.aim is Aim.MATCH and c.gap is not None]
    if not known:
        return " There is no oracle to compare with." if all(c.reference is None for c in group.cells) else ""
    said = ", ".join(f"{c.name} {number(c.gap)}" for c in known)
    return f" Distances from the oracle: {said}."
