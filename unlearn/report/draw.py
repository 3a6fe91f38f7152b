"""Pictures of a report as SVG whose colours are CSS variables, so that one drawing serves light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

INKS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "original": "#040404",
    "unlearned": "#050505",
    "oracle": "#060606",
    "forgotten": "#070707",
    "card": "#080808",
}
"""Colours to draw with; each is replaced by the CSS variable of its name."""
SETS = {"forget": "forgotten", "audit": "ink", "test": "muted"}
SET_WORDS = {"forget": "forgotten examples", "audit": "like them, never seen", "test": "all test data"}
SIZE = (3.4, 2.45)
WIDE = (5.2, 3.0)
FOOT = 38.0
"""Points below the axes of a figure, with a little air."""
MODELS = ("original", "unlearned", "oracle")

Axes = Any
Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing.

    Attributes:
        title: Short heading.
        svg: Markup to be inlined.
        who: The model it shows, whose colour marks the heading, or nothing.
        alt: What it shows, for those who cannot see it.
    """

    title: str
    svg: str
    who: str = ""
    alt: str = ""


class Spot(NamedTuple):
    """One method in the picture of utility against forgetting.

    Attributes:
        label: What is written beside it.
        x: Held-out accuracy, 0 to 1.
        y: Distance from the oracle.
        ink: Its colour: unlearned, original for a method that did nothing, or oracle.
    """

    label: str
    x: float
    y: float
    ink: str


def losses(data: Data, what: str, key: str) -> list[Picture]:
    """One histogram for each model, with the same bins; heights are comparable within a panel only.

    Args:
        data: `figures["loss"]`, `figures["values"]` or `figures["entropy"]`; `unit` is nats where it does not say.
        what: Word for the axis.
        key: Makes the ids of the markup unique in a page.
    """

    def draw(ax: Axes, who: str) -> None:
        edges = data["edges"]
        for where, share in data["share"][who].items():
            fill = where == "forget"
            ax.stairs(share, edges, fill=fill, color=INKS[SETS[where]], alpha=0.45 if fill else 1,
                      linewidth=0.8 if where == "test" else 1.2, linestyle=":" if where == "test" else "-")  # fmt: skip
        if data["log"]:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(_power)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(0, None)
        ax.spines["left"].set_visible(False)
        unit = data.get("unit", "nats")
        ax.set(yticks=[], xlabel=f"{what}, {unit}" if unit else what)
        ax.figure.subplots_adjust(left=0.05, right=0.95)

    return [
        Picture(who, _svg(_bound(draw, who), f"{key}-{what}-{who}"), who, f"Histogram of {what}: {who}")
        for who in MODELS
        if data["share"].get(who)
    ]


def attack(data: Data, key: str, name: str = "Loss") -> Picture:
    """Receiver operating curves of an attack on logarithmic axes, one for each model.

    Args:
        data: `figures["roc"]`, or one of `figures["attacks"]`.
        key: Makes the ids of the markup unique in a page.
        name: Of the attack.
    """
    low = data["fpr"][0]

    def draw(ax: Axes) -> None:
        ax.plot([low, 1], [low, 1], color=INKS["muted"], linewidth=0.8, linestyle=":")
        for who, tpr in data["tpr"].items():
            shown = [max(t, low / 2) for t in tpr]
            ax.plot(
                data["fpr"], shown, color=INKS[who], linewidth=1.6, label=f"{who}  {data['auc'][who]:.2f}"
            )
        ax.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.15), xlabel="false-positive rate")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda v, _: f"{100 * v:g} %")
            axis.set_minor_formatter("")
        ax.legend(loc="lower right", title="AUC", handlelength=1.2)

    said = ", ".join(f"{who} {auc:.2f}" for who, auc in data["auc"].items())
    return Picture(
        f"{name} attack: true-positive rate",
        _svg(draw, f"{key}-roc-{name}"),
        alt=f"ROC of the {name} attack; AUC: {said}",
    )


def classes(data: Data, key: str) -> Picture:
    """Change of each class's test accuracy from the original; at most the 20 that changed most."""
    change = {
        who: [None if a is None or b is None else 100 * (a - b) for a, b in
              zip(data["accuracy"][who], data["accuracy"]["original"], strict=True)]
        for who in ("unlearned", "oracle") if who in data["accuracy"]
    }  # fmt: skip
    known = [c for c, v in enumerate(change["unlearned"]) if v is not None]
    shown = sorted(sorted(known, key=lambda c: -abs(change["unlearned"][c] or 0))[:20])

    def draw(ax: Axes) -> None:
        width = 0.8 / len(change)
        for k, (who, values) in enumerate(change.items()):
            at = [i + (k - (len(change) - 1) / 2) * width for i in range(len(shown))]
            ax.bar(at, [values[c] or 0 for c in shown], 0.92 * width, color=INKS[who])
        ax.axhline(0, color=INKS["muted"], linewidth=0.8)
        names = [str(data["names"][c])[:12] for c in shown]
        tall = any(len(n) > 2 for n in names)
        if tall:
            ax.figure.subplots_adjust(bottom=0.33)
        ax.set_xticks(range(len(shown)), names, rotation=60 if tall else 0, ha="right" if tall else "center")
        for tick, c in zip(ax.get_xticklabels(), shown, strict=True):
            tick.set_color(INKS["forgotten" if c in data["removed"] else "ink"])
        ax.tick_params(axis="x", length=0)
        if not tall:
            ax.set_xlabel("class")

    return Picture("Test accuracy by class, change in points", _svg(draw, f"{key}-classes"),
                   alt="Bars: change of test accuracy by class, unlearned and oracle")  # fmt: skip


def features(data: Data, key: str) -> list[Picture]:
    """Two-dimensional pictures of the features; the original and the unlearned model share axes and limits."""
    shared = [p for who in ("original", "unlearned") for p in data["points"].get(who, [])]
    n = data["forgotten"]

    def draw(ax: Axes, who: str) -> None:
        points = data["points"][who]
        for part, ink, size, mark in ((points[n:], "muted", 2.2, "o"), (points[:n], "forgotten", 4.2, "x")):
            ax.plot([p[0] for p in part], [p[1] for p in part], mark, color=INKS[ink], markersize=size,
                    markeredgewidth=1.1 if mark == "x" else 0, alpha=0.85)  # fmt: skip
        for x, y, name in _centres(points[n:], data.get("y", [])[n:], data.get("names", [])):
            ax.text(x, y, name, ha="center", va="center", fontsize=9, weight="bold", color=INKS["ink"],
                    bbox={"boxstyle": "round,pad=0.15", "facecolor": INKS["card"], "edgecolor": "none", "alpha": 0.75})  # fmt: skip
        _frame(ax, points if who == "oracle" else shared)

    titles = {
        "original": "original",
        "unlearned": "unlearned, same axes",
        "oracle": "oracle, axes of its own",
    }
    return [
        Picture(
            titles[who],
            _svg(_bound(draw, who), f"{key}-features-{who}"),
            who,
            f"Features on two main axes: {who}",
        )
        for who in MODELS
        if who in data["points"]
    ]


def levels(
    values: dict[str, dict[str, float]], key: str, title: str = "Accuracy by set", unit: str = "%"
) -> Picture:
    """Accuracy, or error, of each model on each set.

    Args:
        values: By set, then model; shares from 0 to 1 where the unit is %.
        key: Makes the ids of the markup unique in a page.
        title: Heading of the picture.
        unit: Of the values.
    """
    share = unit == "%"

    def draw(ax: Axes) -> None:
        for k, who in enumerate(MODELS):
            known = [
                (i + 0.27 * (k - 1), (100 if share else 1) * v[who])
                for i, v in enumerate(values.values())
                if who in v
            ]
            ax.bar([x for x, _ in known], [y for _, y in known], 0.24, color=INKS[who])
        ax.set_xticks(range(len(values)), [name.replace("_", "\n") for name in values])
        ax.tick_params(axis="x", length=0)
        ax.set_ylim(0, 100 if share else None)
        if share:
            ax.yaxis.set_major_formatter(lambda v, _: f"{v:g} %")

    said = "; ".join(
        f"{name}: " + ", ".join(f"{who} {v:.3f}" for who, v in by.items()) for name, by in values.items()
    )
    heading = title if share or not unit else f"{title}, {unit}"
    return Picture(heading, _svg(draw, f"{key}-levels"), alt=f"{title}. {said}")


def tradeoff(spots: Sequence[Spot], ylabel: str, key: str, xlabel: str = "held-out accuracy →") -> Picture:
    """Utility against forgetting: held-out accuracy or error to the right, distance from the oracle upwards.

    Args:
        spots: One for each method, and one for the oracle where there is one.
        ylabel: What the distance is.
        key: Makes the ids of the markup unique in a page.
        xlabel: What the utility is, with an arrow to what is better.
    """

    def draw(ax: Axes) -> None:
        xs, ys = [s.x for s in spots], [s.y for s in spots]
        pad = 0.08 * (max(xs) - min(xs)) or 0.01
        ax.set_xlim(min(xs) - pad, max(xs) + 3 * pad)
        ax.set_ylim(0, 1.15 * max(ys) or 0.01)
        ax.set_xlabel(xlabel)
        ax.grid(True, color=INKS["line"], linewidth=0.6)
        taken: list[tuple[float, float, float]] = []
        for s in spots:
            mark, size = ("*", 12) if s.ink == "oracle" else ("o", 7)
            ax.plot([s.x], [s.y], mark, markersize=size, color=INKS[s.ink], clip_on=False, zorder=3)
            _tag(ax, s, taken)

    said = "; ".join(f"{s.label}: {s.x:.3f}, {s.y:.3f}" for s in spots)
    return Picture(
        f"{ylabel} ↓",
        _svg(draw, f"{key}-tradeoff", WIDE),
        alt=f"{xlabel.strip(' ←→').capitalize()} and {ylabel}: {said}",
    )


def _tag(ax: Axes, spot: Spot, taken: list[tuple[float, float, float]]) -> None:
    """Writes a label beside its spot, at the first place where it covers no label written before."""
    x, y = ax.transData.transform((spot.x, spot.y)) * 72 / ax.figure.dpi
    wide, high = 5.2 * len(spot.label), 11.0
    places = [(8.0, 5.0 + step * high) for step in (0, -1, 1, -2, 2, -3, 3, -4, 4)]
    places = [p for p in places if y + p[1] > FOOT]
    dx, dy = next((p for p in places if not any(abs(y + p[1] - b) < high and x < a + w and a < x + wide + 8
                                                for a, b, w in taken)), places[0])  # fmt: skip
    taken.append((x + dx, y + dy, wide))
    ax.annotate(
        spot.label,
        (spot.x, spot.y),
        xytext=(dx, dy),
        textcoords="offset points",
        color=INKS["ink"],
        fontsize=9,
    )


def _centres(points: Sequence[Any], y: Sequence[int], names: Sequence[str]) -> list[tuple[float, float, str]]:
    """Median point and name of each class, where there are few enough to tell apart."""
    kinds = sorted(set(y))
    if not 1 < len(kinds) <= 12:
        return []
    found = []
    for kind in kinds:
        own = [p for p, c in zip(points, y, strict=True) if c == kind]
        middle = [sorted(p[k] for p in own)[len(own) // 2] for k in (0, 1)]
        found.append((middle[0], middle[1], str(names[kind] if kind < len(names) else kind)[:10]))
    return found


def _frame(ax: Axes, points: Sequence[Any]) -> None:
    for axis, values in (("x", [p[0] for p in points]), ("y", [p[1] for p in points])):
        pad = 0.06 * (max(values) - min(values)) or 1.0
        getattr(ax, f"set_{axis}lim")(min(values) - pad, max(values) + pad)
    ax.set(xticks=[], yticks=[])
    ax.figure.subplots_adjust(0.02, 0.02, 0.98, 0.98)


def _power(value: float, _: int) -> str:
    """A power of ten for an axis; plain text, so that the page's font draws it."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _bound(draw: Callable[[Axes, str], None], who: str) -> Callable[[Axes], None]:
    return lambda ax: draw(ax, who)


def _svg(draw: Callable[[Axes], None], key: str, size: tuple[float, float] = SIZE) -> str:
    """One figure as markup: no ids but its own, colours as CSS variables, the same bytes every time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_style(), "svg.hashsalt": key}):
        figure = Figure(figsize=size)
        ax = figure.subplots()
        figure.subplots_adjust(0.46 / size[0], 0.5 / size[1], 1 - 0.14 / size[0], 1 - 0.1 / size[1])
        draw(ax)
        held = io.StringIO()
        figure.savefig(held, format="svg", transparent=True,
                       metadata={"Date": None, "Creator": None, "Format": None, "Type": None})  # fmt: skip
    return _clean(held.getvalue(), re.sub(r"[^a-zA-Z0-9]+", "-", key))


def _style() -> dict[str, Any]:
    ink, muted, line = INKS["ink"], INKS["muted"], INKS["line"]
    return {
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.color": ink,
        "axes.labelcolor": muted, "axes.labelsize": 9, "axes.edgecolor": line, "axes.linewidth": 0.8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.unicode_minus": True,
        "xtick.color": muted, "ytick.color": muted, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
        "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "legend.frameon": False, "legend.fontsize": 8.5, "legend.title_fontsize": 8.5,
    }  # fmt: skip


def _clean(markup: str, key: str) -> str:
    markup = markup[markup.index("<svg") :]
    markup = re.sub(
        r"<(metadata|style).*?</\1>", "", markup, flags=re.S
    )  # a style would reach the whole page
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", markup))
    markup = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", markup)
    markup = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", markup)
    for name, color in INKS.items():
        markup = markup.replace(color, f"var(--{name})")
    markup = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg viewBox="\1" role="img" aria-hidden="true">',
        markup,
        count=1,
    )
    markup = re.sub(r"font-family: [^;\"]+", "font-family: inherit", markup)
    return re.sub(r"\s*\n\s*", " ", markup.replace("xlink:href", "href"))
