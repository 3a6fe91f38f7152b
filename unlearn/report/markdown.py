"""A report as markdown, for issues, pull requests and papers' appendices."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unlearn.report import Report
from unlearn.report.damage import damage
from unlearn.report.held import held
from unlearn.report.recovery import HINT, recovered
from unlearn.report.reproduce import command
from unlearn.report.summary import Group, bounds, groups, in_floors, number, planned, seeds_text, spread
from unlearn.report.verdict import concluded, criteria, verdict
from unlearn.report.words import per_cent


def render(reports: Sequence[Report]) -> str:
    """The verdict, a comparison where there are several methods, and every score.

    Args:
        reports: At least one.
    """
    found = groups(reports)
    lines = [
        f"# {escape(', '.join(dict.fromkeys(g.first.method for g in found)))} on {escape(found[0].first.scenario)}"
    ]
    lines += ["", escape(verdict(reports)), "", f"<sub>{escape(criteria(found))}</sub>"]
    if len(found) > 1:
        lines += ["", "## Methods side by side", "", *comparison(found)]
    for group in found:
        lines += ["", *_section(group, len(found) == 1)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Text that markdown takes for nothing but text.

    Example:
        >>> escape("a|b <i>*x*")
        'a\\|b &lt;i&gt;\\*x\\*'
    """
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|*`[]#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def comparison(found: Sequence[Group]) -> list[str]:
    """Lines of a table with a row for the oracle and one for each group, headline scores as columns."""
    names = list(dict.fromkeys(c.name for g in found for c in g.headline))
    signs = {c.name: c.score.aim.sign for g in found for c in g.headline}
    references = {
        n: next((c.reference for g in found if (c := g.cell(n)) and c.reference is not None), None)
        for n in names
    }
    rows = [["oracle", "", *(number(references[n]) for n in names)]]
    for g in found:
        cells = [spread(c) if (c := g.cell(n)) else "–" for n in names]
        rows.append([escape(g.label), concluded(g).words, *cells])
    return _table(["method", "verdict", *(f"{escape(n)} {signs[n]}" for n in names)], rows)


def _section(group: Group, alone: bool) -> list[str]:
    columns = ["score", "original", "unlearned", "oracle", "gap", "floor", "in floors", "interval", "aim"]
    rows = [
        [escape(c.name), number(c.original), f"**{spread(c)}**", number(c.reference), number(c.gap), number(c.floor),
         in_floors(c), bounds(c), c.score.aim.sign]
        for c in (*group.headline, *group.rest)
    ]  # fmt: skip
    costs = group.first.costs
    lent = (
        f", training the models that it was lent {costs.pool_seconds:.2f} s"
        if costs.pool_seconds is not None
        else ""
    )
    oracle = f", retraining {costs.oracle_seconds:.2f} s" if costs.oracle_seconds is not None else ""
    took = (
        ""
        if (p := planned(group)) is None
        else f" The run was planned to take {p[0]:.0f} s and took {p[1]:.0f} s."
    )
    notes = [f"- {escape(n)}" for n in dict.fromkeys(n for r in group.reports for n in r.notes)]
    return [
        f"## {escape(group.label)}", "", *([] if alone else [f"{concluded(group).words}. {escape(concluded(group).text)}", ""]),
        *_table(columns, rows), "",
        f"Unlearning took {costs.seconds:.2f} s{lent}{oracle}; {100 * costs.changed:.1f} % of the parameters changed; {seeds_text(group)}.{took}",
        *_recovered(group), *_damage(group), *_policy(group), "", *_code([command(r) for r in group.reports]), *(["", *notes] if notes else []),
    ]  # fmt: skip


def _policy(group: Group) -> list[str]:
    """Lines of a table of what a policy asks."""
    found = held(group.reports)
    if found is None:
        return []
    rows = [
        [escape(line.why or line.asked), line.mark, escape(f"{line.asked}; {line.said}")]
        for line in found.lines
    ]
    return ["", escape(found.words), "", *_table(["criterion", "state", "numbers"], rows)]


def _recovered(group: Group) -> list[str]:
    """Lines of a table of what was tried to bring the forgotten back."""
    rows = [
        [f"{escape(words)} ({escape(c.name)})", number(c.original), f"**{spread(c)}**", number(c.reference), number(c.floor),
         escape(c.score.note)]
        for words, c in recovered(group)
    ]  # fmt: skip
    columns = ["what comes back", "original", "unlearned", "oracle", "floor", "note"]
    return ["", HINT, "", *_table(columns, rows)] if rows else []


def _damage(group: Group) -> list[str]:
    """Lines of a table of what each class lost."""
    found = damage(group.reports)
    if found is None:
        return []
    by = ["neighbour"] if found.by else []
    rows = [
        [escape(row.name) + (" (forgotten)" if row.removed else ""), str(row.n),
         *(per_cent(row.accuracy[who]) for who in found.models), per_cent(row.drop),
         *(["" if row.removed else per_cent(row.share)] if by else [])]
        for row in found.rows
    ]  # fmt: skip
    return ["", found.words, "", *_table(["class", "n", *found.models, "drop", *by], rows)]


def _code(lines: Sequence[str]) -> list[str]:
    """A code block that no run of backticks in it can end."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", *lines, fence]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    return head + [f"| {' | '.join(row)} |" for row in rows]
