"""What each class lost: held-out accuracy class by class, most harmed first, and the neighbours of the forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearn.report import Report

MODELS = ("original", "unlearned", "oracle")
MOST = 20
"""Kept classes that are shown at most, but for neighbours."""
NEIGHBOUR = 0.1
"""Share of the forgotten from which on a class is shown as a neighbour however little it lost."""

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One class, in the mean over seeds.

    Attributes:
        name: Of the class.
        removed: Whether it is forgotten.
        n: Held-out examples of it, of the first seed.
        accuracy: On these, by model, 0 to 1; None where it is unknown.
        drop: The original's accuracy less the unlearned model's.
        share: See `Damage.by`; None where nothing is known of it.
    """

    name: str
    removed: bool
    n: int
    accuracy: dict[str, float | None]
    drop: float
    share: float | None


@dataclass(frozen=True, slots=True)
class Damage:
    """The classes of a group: the forgotten ones, then the others, the largest drop first.

    Attributes:
        models: Those of which accuracies are known.
        rows: The classes that are shown.
        hidden: How many lost less than those and are not shown.
        by: The model that assigns held-out examples of the forgotten classes to the others: the oracle, or the original
            where there is none. A class's share of them says how near a neighbour it is. Nothing without such examples.
        seeds: Over how many the numbers are means.
    """

    models: tuple[str, ...]
    rows: tuple[Row, ...]
    hidden: int
    by: str
    seeds: int

    @property
    def words(self) -> str:
        """What the numbers are, in sentences."""
        said = ["Accuracy on held-out examples; the forgotten first, then the classes by what they lost."]
        if self.by:
            said.append(f"Neighbours are the classes to which the {self.by} assigns held-out examples of what is forgotten; "
                        f"the last column says what share of them.")  # fmt: skip
        if self.hidden:
            said.append(f"{self.hidden} classes that lost no more are not shown.")
        if self.seeds > 1:
            said.append(f"Means over {self.seeds} seeds.")
        return " ".join(said)


def damage(reports: Sequence[Report]) -> Damage | None:
    """The table of reports that differ in nothing but their seeds; None where they name no classes.

    Args:
        reports: At least one. Where other classes are forgotten with each seed, only the first counts.
    """
    found = [d for r in reports if (d := r.figures.get("classes", {})).get("accuracy")]
    if not found:
        return None
    first = found[0]
    same = [d for d in found if (d["names"], d["removed"]) == (first["names"], first["removed"])]
    data = same if len(same) == len(reports) else [first]
    rows = [row for c in range(len(first["names"])) if (row := _row(data, c)) is not None]
    rows.sort(key=lambda row: (not row.removed, -row.drop, -(row.share or 0)))
    kept = [row for row in rows if not row.removed]
    out = [row for row in kept[MOST:] if (row.share or 0) < NEIGHBOUR]
    return Damage(
        tuple(who for who in MODELS if who in first["accuracy"]),
        tuple(row for row in rows if row not in out),
        len(out), first.get("by", ""), len(data),
    )  # fmt: skip


def _row(data: Sequence[Data], c: int) -> Row | None:
    """One class, or None without held-out examples of it."""
    accuracy = {who: _mean([d["accuracy"][who][c] for d in data]) for who in data[0]["accuracy"]}
    before, after = accuracy.get("original"), accuracy.get("unlearned")
    if before is None or after is None:
        return None
    share = _mean([d["neighbours"][c] for d in data if d.get("neighbours")])
    return Row(
        str(data[0]["names"][c]),
        c in data[0]["removed"],
        data[0]["n"][c],
        accuracy,
        before - after,
        share,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
