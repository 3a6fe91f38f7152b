"""One self-contained page: no script, no request, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.errors import StoreError
from unlearn.report import Report, completion, draw, grid
from unlearn.report.damage import damage
from unlearn.report.held import held
from unlearn.report.published import SOURCE, published
from unlearn.report.recovery import HINT, recovered
from unlearn.report.reproduce import command
from unlearn.report.summary import Cell, Group, groups, number, planned, seeds_text, spread
from unlearn.report.verdict import LIMITS, concluded, criteria, overall
from unlearn.report.words import per_cent
from unlearn.store import replacing

TEMPLATE = Path(__file__).with_name("page.html.j2")
Data = dict[str, Any]


def render(reports: Sequence[Report]) -> str:
    """The page of one run, or of several: compared first, then each by itself.

    Args:
        reports: At least one.
    """
    from jinja2 import Environment, StrictUndefined

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(number=number, percent=per_cent, spread=spread, tied=tied)
    found = groups(reports)
    return env.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title(found),
        said=overall(found),
        criteria=criteria(found),
        limits=LIMITS,
        comparison=comparison(found) if len(found) > 1 else None,
        sections=[section(g, f"s{k}") for k, g in enumerate(found)],
    )


def write(reports: Sequence[Report], path: Path) -> None:
    """Renders reports into a file; one that is there is kept until the new one is complete.

    Raises:
        StoreError: If it cannot be written.
    """
    page = render(reports)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(page, encoding="utf-8")
    except OSError as err:
        raise StoreError(
            f"cannot write {path}: {err.strerror or err}; choose another place with --html"
        ) from err


def tied(text: str) -> str:
    """Text in which a per cent sign and a ± stay with their numbers at the end of a line."""
    return text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def title(found: Sequence[Group]) -> str:
    """The heading of the page."""
    scenarios = list(dict.fromkeys(g.first.scenario for g in found))
    names = list(dict.fromkeys(g.first.method for g in found))
    what = ", ".join(names) if len(names) <= 3 else f"{len(names)} methods"
    return f"{what} on {scenarios[0] if len(scenarios) == 1 else f'{len(scenarios)} scenarios'}"


def comparison(found: Sequence[Group]) -> Data:
    """Every group in one table and one picture, the oracle beside them."""
    names = list(dict.fromkeys(c.name for g in found for c in g.headline))
    cells = [(g, [g.cell(n) for n in names]) for g in found]
    oracle = [next((c.reference for _, row in cells if (c := row[k]) and c.reference is not None), None)
              for k in range(len(names))]  # fmt: skip
    same = len({(g.first.scenario, g.first.recipe.get("step", 0)) for g in found}) == 1
    return {
        "names": [
            (n, next(c.score.aim.sign for _, row in cells for c in row if c and c.name == n)) for n in names
        ],
        "rows": [
            {"group": g, "judged": concluded(g), "cells": row, "seconds": _seconds(g)} for g, row in cells
        ],
        "oracle": oracle if same and any(v is not None for v in oracle) else None,
        "pictures": _tradeoffs(found) if same else [],
    }


def section(group: Group, key: str) -> Data:
    """Everything that is shown of one group."""
    first = group.first
    return {
        "key": key,
        "group": group,
        "judged": concluded(group),
        "lead": _lead(group),
        "tiles": _tiles(group),
        "policy": held(group.reports),
        "recovered": recovered(group),
        "recovery_hint": HINT,
        "damage": damage(group.reports),
        "strip": strip,
        "drawings": grid.drawings(first.figures.get("drawings")),
        "completions": grid.completions(first.figures.get("completions")),
        "matrices": grid.matrices(first.figures.get("concepts", [])),
        "confusions": grid.confusions(first.figures.get("concepts", [])),
        "pictures": pictures(group, key),
        "thumbs": first.figures.get("forgotten", []),
        "published": _published(group),
        "costs": _costs(group),
        "facts": _facts(first),
        "commands": [command(r) for r in group.reports],
        "notes": list(dict.fromkeys(n for r in group.reports for n in r.notes)),
    }


def pictures(group: Group, key: str) -> list[tuple[str, str, list[draw.Picture]]]:
    """Rows of pictures of one size: heading, explanation, drawings."""
    figures = group.first.figures
    rows: list[tuple[str, str, list[draw.Picture]]] = []
    if data := figures.get("loss"):
        rows.append(("Loss on what was forgotten", "Filled: the forgotten examples. Outline: held-out examples like them, "
                     "which no model was trained on. Dotted: all test data, where that differs. Unlearning works where the two coincide as they do for the oracle.",
                     draw.losses(data, "loss", key)))  # fmt: skip
    if data := figures.get("values"):
        rows.append(("Predicted values", "What each model predicts for the forgotten examples (filled), for held-out examples like them "
                     "(outline) and for all test data (dotted). A model that forgot predicts what the oracle does.",
                     draw.losses(data, "predicted value", key)))  # fmt: skip
    if data := figures.get("features"):
        share = " and ".join(f"{100 * v:.0f} %" for v in data["explained"])
        rows.append(("Features", f"Up to 400 training examples on the two main axes of the original's features ({share} of their variance); "
                     "crosses are forgotten examples, grey dots are kept ones, names stand at the middle of each kept class.",
                     draw.features(data, key)))  # fmt: skip
    row = [draw.attack(figures["roc"], key)] if figures.get("roc") else []
    row += [_levels(group, sets, key)] if (sets := _by_set(group)) else []
    row += [draw.classes(figures["classes"], key)] if figures.get("classes", {}).get("accuracy") else []
    if row:
        rows.append(("Privacy and collateral damage", "The curves show how well an attacker who sees only the loss tells forgotten examples "
                     "from held-out ones; the dotted line is guessing. Names of removed classes are coloured.", row))  # fmt: skip
    if found := figures.get("attacks"):
        rows.append(("Attacks on single examples", "Each example is compared with models that never saw it: by its margin (LiRA), its likelihood "
                     "relative to others (RMIA), its place between the original and such models (IAM).",
                     [draw.attack(data, key, name) for name, data in found.items()]))  # fmt: skip
    if data := figures.get("entropy"):
        rows.append(("Entropy of the predictions", "How undecided each model is, on the forgotten and on held-out examples.",
                     draw.losses(data, "entropy", key)))  # fmt: skip
    return rows


def _by_set(group: Group) -> dict[str, dict[str, float]]:
    """Accuracy or mean absolute error by set and model, in the mean over seeds."""
    metric, _, rest = group.yardstick.forget.partition("/forget")
    found: dict[str, dict[str, float]] = {}
    for c in group.cells:
        if c.score.metric == metric and c.name.startswith(f"{metric}/") and c.name.endswith(rest):
            known = {"original": c.original, "unlearned": c.value, "oracle": c.reference}
            name = c.name.removeprefix(f"{metric}/").removesuffix(rest)
            found[name] = {who: v for who, v in known.items() if v is not None}
    return found


def _levels(group: Group, sets: dict[str, dict[str, float]], key: str) -> draw.Picture:
    """Bars of `_by_set`."""
    by, unit = group.yardstick, group.forget.score.unit if group.forget else ""
    return draw.levels(sets, key, by.bars, "%" if by.larger_knows else unit)


def strip(cell: Cell) -> Data | None:
    """Positions in per cent of a score's values on a line from 0 to 1, or None where one lies outside or has a unit."""
    if cell.score.unit:
        return None
    marks = {"original": cell.original, "oracle": cell.reference, "unlearned": cell.value}
    known = {who: round(100 * v, 2) for who, v in marks.items() if v is not None}
    if "unlearned" not in known or any(not 0 <= v <= 100 for v in known.values()):
        return None
    low, high = (
        (None, None) if cell.low is None or cell.high is None else (max(0.0, cell.low), min(1.0, cell.high))
    )
    band = None if low is None or high is None else (round(100 * low, 2), round(100 * (high - low), 2))
    return {"marks": known, "band": band}


def _lead(group: Group) -> str:
    request = group.first.request
    sizes = request.get("sizes", {})
    parts = [f"request {request.get('text', '')}"]
    if "forget" in sizes:
        parts.append(f"{sizes['forget']:,} training examples forgotten, {sizes.get('retain', 0):,} kept")
    return " · ".join([*parts, seeds_text(group), group.first.created[:10]])


def _tiles(group: Group) -> list[Data]:
    """The few numbers to look at first."""
    by, unit = group.yardstick, group.forget.score.unit if group.forget else ""
    first, second = (f"{name}, {unit}" if unit else name for name in by.tiles)
    named = [
        ("Drawings of the concept that show another", group.cell("erasure/ua"), per_cent),
        ("Neighbours drawn right, same axis", group.cell("erasure/in-domain"), per_cent),
        ("Neighbours drawn right, other axes", group.cell("erasure/cross-domain"), per_cent),
        ("Drawings that show nothing", group.cell("erasure/nothing"), per_cent),
        ("Error in forgotten images", group.cell("completion/mse/forget"), number),
        ("Forgotten images that a judge recognises", group.cell("completion-accuracy/forget"), per_cent),
        ("Error in held-out images of the rest", completion.held_out(group), number),
        (first, group.forget, by.short),
        (second, group.held_out, by.short),
        ("Membership attack, AUC", group.attack, number),
    ]
    tiles = [
        {"name": name, "value": show(c.value) + (f" ± {show(c.half)}" if c.half is not None else ""),
         "oracle": show(c.reference), "original": show(c.original)}
        for name, c, show in named
        if c is not None and c.value is not None
    ]  # fmt: skip
    if (ratio := _speedup(group)) is not None:
        tiles.append(
            {
                "name": "Time, as a share of retraining",
                "value": f"{100 / ratio:.3g} %",
                "oracle": "100 %",
                "original": "",
            }
        )
    return tiles


def _seconds(group: Group) -> float:
    return sum(r.costs.charged for r in group.reports) / len(group.reports)


def _speedup(group: Group) -> float | None:
    oracle = [r.costs.oracle_seconds for r in group.reports if r.costs.oracle_seconds is not None]
    seconds = _seconds(group)
    return sum(oracle) / len(oracle) / seconds if oracle and seconds > 0 and not group.idle else None


def _tradeoffs(found: Sequence[Group]) -> list[draw.Picture]:
    """Held-out accuracy against distances from the oracle, where both are known of two groups or more."""
    oracle = next((u.reference for g in found if (u := g.held_out) and u.reference is not None), None)
    drawn: list[draw.Picture] = []
    by = found[0].yardstick
    sides = {by.axes[0]: [g.forget for g in found], "the loss attack's AUC": [g.attack for g in found]}
    for what, cells in sides.items():
        pairs = [(g, g.held_out, p) for g, p in zip(found, cells, strict=True)]
        spots = [draw.Spot(g.label, u.value, p.gap, "original" if g.idle else "unlearned") for g, u, p in pairs
                 if u and p and u.value is not None and p.gap is not None]  # fmt: skip
        if len(spots) > 1 and oracle is not None:
            spots.insert(0, draw.Spot("oracle", oracle, 0.0, "oracle"))
            key = f"all-{len(drawn)}"
            drawn.append(draw.tradeoff(spots, f"Distance of {what} from the oracle's", key, by.axes[1]))
    return drawn


def _published(group: Group) -> Data | None:
    rows = published(group.first)
    if not rows:
        return None
    ours = [group.forget, group.cell("accuracy/retain"), group.held_out]
    values = [None if c is None or c.value is None else 100 * c.value for c in ours]
    if values[0] is not None:
        values[0] = 100 - values[0]
    return {"source": SOURCE, "rows": rows, "ours": values, "method": group.first.method}


def _costs(group: Group) -> list[tuple[str, str]]:
    costs = [r.costs for r in group.reports]
    mean = {k: sum(getattr(c, k) for c in costs) / len(costs) for k in ("seconds", "peak_bytes", "changed")}
    rows = [("Unlearning call", duration(mean["seconds"]))]
    for word, key in (
        ("Training the models that it was lent", "pool_seconds"),
        ("Training the original", "original_seconds"),
        ("Retraining, the oracle", "oracle_seconds"),
    ):
        known = [v for c in costs if (v := getattr(c, key)) is not None]
        rows += [(word, duration(sum(known) / len(known)))] if known else []
    if (ratio := _speedup(group)) is not None:
        rows.append(("Faster than retraining", f"{ratio:.1f} times"))
    rows += [("Peak memory above what was in use", f"{mean['peak_bytes'] / 2**20:,.1f} MiB"),
             ("Parameters changed", f"{100 * mean['changed']:.1f} %")]  # fmt: skip
    if (expected := planned(group)) is not None:
        rows.append(("Whole run, planned and taken", " and ".join(map(duration, expected))))
    return rows + [(f"Examples read, {name}", f"{n:,}") for name, n in costs[0].read.items()]


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(0.31), duration(75.0), duration(7320.0)
        ('0.31 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _facts(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lists of names and values: hyper-parameters, scenario, environment, weights."""
    values = report.recipe["method"]["values"]
    scenario = report.recipe["scenario"]
    environment = {k: v for k, v in report.environment.items() if k != "packages"}
    packages = report.environment.get("packages", {})
    tables = {
        "Hyper-parameters": values,
        "Scenario": {
            "name": scenario["name"],
            **scenario["options"],
            "request": report.request.get("text", ""),
        },
        "Training of original and oracle": report.recipe.get("training") or {},
        "Environment": {**environment, **packages},
        "Weights, SHA-256": {who: mark[:16] for who, mark in report.weights.items()},
    }
    return [(name, [(k, _word(v)) for k, v in table.items()]) for name, table in tables.items() if table]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
