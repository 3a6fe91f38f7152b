"""What reports show of a policy that was fixed before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn.report import Report

MARKS = {"pass": "holds", "fail": "fails", "cannot tell": "cannot tell"}


@dataclass(frozen=True, slots=True)
class Line:
    """One criterion over all seeds.

    Attributes:
        why: What it is for.
        asked: Score, rule and limit.
        state: `pass` if it holds in every seed, `fail` if it fails in one, else `cannot tell`.
        said: The numbers.
    """

    why: str
    asked: str
    state: str
    said: str

    @property
    def mark(self) -> str:
        """The state in words."""
        return MARKS[self.state]


@dataclass(frozen=True, slots=True)
class Held:
    """A policy over all seeds of one method.

    Attributes:
        name: Of the policy.
        digest: SHA-256 of its text.
        state: `pass` if every criterion holds, `fail` if one fails, else `cannot tell`.
        lines: The criteria.
    """

    name: str
    digest: str
    state: str
    lines: tuple[Line, ...]

    @property
    def words(self) -> str:
        """The state in one sentence."""
        count = {m: sum(line.state == s for line in self.lines) for s, m in MARKS.items()}
        said = ", ".join(f"{n} {mark}" for mark, n in count.items() if n)
        return f"Policy {self.name!r} ({self.digest[:12]}): {self.state} ({said})."


def held(reports: Sequence[Report]) -> Held | None:
    """What reports of one method on several seeds show of their policy; None if they have none, or not the same."""
    first = reports[0].policy
    if not first or any(r.policy.get("sha256") != first["sha256"] for r in reports):
        return None
    lines = tuple(_line([r.policy["criteria"][k] for r in reports]) for k in range(len(first["criteria"])))
    return Held(first["name"], first["sha256"], _together([line.state for line in lines]), lines)


def _line(found: Sequence[dict[str, str]]) -> Line:
    first, states = found[0], [f["state"] for f in found]
    said = first["said"]
    if len(found) > 1:
        counts = [f"{MARKS[s]} in {states.count(s)}" for s in MARKS if s in states]
        said = f"{', '.join(counts)} of {len(found)} seeds; first: {said}"
    return Line(first["why"], f"{first['score']} {first['rule']} {first['limit']:g}", _together(states), said)


def _together(states: Sequence[str]) -> str:
    if "fail" in states:
        return "fail"
    return "pass" if states and set(states) == {"pass"} else "cannot tell"
