"""A policy: what a report must show to pass, written down before the run; criterion by criterion, and it fails closed."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unlearn.errors import BadValue
from unlearn.score import Score

State = Literal["pass", "fail", "cannot tell"]
RULES = {
    "within": "the distance from the oracle's value is at most `limit`; beyond it by less than is known, nobody can tell",
    "not-below": "the value is at most `limit` standard errors below the oracle's, the distance of two oracles among them",
    "not-above": "the value is at most `limit` standard errors above the oracle's, the distance of two oracles among them",
    "floor": "the value is at most `limit` times its floor, that between retrained models",
    "at-most": "the value is at most `limit`",
    "at-least": "the value is at least `limit`",
}
DEFAULT = """\
name = "default"

[[criteria]]
score = "accuracy/test_retain|accuracy/test"
rule = "within"
limit = 0.01
why = "held-out accuracy within a point of the retrained model's"

[[criteria]]
score = "collapse"
rule = "at-most"
limit = 0
why = "nothing collapsed"

[[criteria]]
score = "iam/forget"
rule = "not-below"
limit = 2
why = "forgotten examples look as unlearned as to the retrained model"

[[criteria]]
score = "lira/tpr@1%|lira/tpr@10%|lira/auc"
rule = "not-above"
limit = 2
why = "the per-example attack finds no more of them than in the retrained model"

[[criteria]]
score = "klom/retain/p95"
rule = "floor"
limit = 1.5
why = "what is kept is answered as by retrained models"

[[criteria]]
score = "klom/test_retain/p95|klom/test/p95|klom/audit/p95"
rule = "floor"
limit = 1.5
why = "what was never seen is answered as by retrained models"

[[criteria]]
score = "per-class/worst-drop"
rule = "at-most"
limit = 0.03
why = "no class loses more than three points"

[[criteria]]
score = "relearn/ain"
rule = "at-least"
limit = 0.8
why = "what is forgotten takes as long to learn again as for the retrained model"
"""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of a policy.

    Attributes:
        score: Name of the score; of several joined by `|` the first that has a value in a report.
        rule: One of `RULES`.
        limit: See there.
        why: What it is for, in words.
    """

    score: str
    rule: str
    limit: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a report shows of one criterion.

    Attributes:
        criterion: The criterion.
        state: Whether it holds.
        said: The numbers, or why nobody can tell.
    """

    criterion: Criterion
    state: State
    said: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        c = self.criterion
        return {
            "score": c.score,
            "rule": c.rule,
            "limit": c.limit,
            "why": c.why,
            "state": self.state,
            "said": self.said,
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """What a report must show.

    Attributes:
        name: Its name.
        criteria: All must hold.
        text: As it was written.
    """

    name: str
    criteria: tuple[Criterion, ...]
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def applied(self, scores: Sequence[Score]) -> dict[str, Any]:
        """What it says of scores, with itself and its hash, as JSON."""
        found = self.judge(scores)
        return {"name": self.name, "sha256": self.digest, "text": self.text, "state": overall(found),
                "criteria": [f.to_dict() for f in found]}  # fmt: skip

    def judge(self, scores: Sequence[Score]) -> list[Finding]:
        """What scores show of each criterion."""
        return [_judged(c, scores) for c in self.criteria]


def overall(findings: Iterable[Finding]) -> State:
    """Fail if a criterion fails; pass if all hold and there is one; else nobody can tell."""
    states = [f.state for f in findings]
    if "fail" in states:
        return "fail"
    return "pass" if states and set(states) == {"pass"} else "cannot tell"


def read(path: Path | None, known: Iterable[str]) -> Policy:
    """The policy of a file, or the default.

    Args:
        path: A TOML file.
        known: Names of the metrics that there are.

    Raises:
        BadValue: If it cannot be read, or names an unknown rule, field or metric.
    """
    try:
        text = DEFAULT if path is None else path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise BadValue(
            f"cannot read a policy from {path}: {err}; `unlearn policy` prints the default to start from"
        ) from None
    rows = found.get("criteria", [])
    if not rows or not isinstance(rows, list):
        raise BadValue(f"the policy {path} has no [[criteria]], so nothing could fail; give one at least")
    made = [_criterion(row, path, set(known)) for row in rows]
    return Policy(str(found.get("name", path.stem if path else "default")), tuple(made), text)


def _criterion(row: Mapping[str, Any], path: Path | None, known: set[str]) -> Criterion:
    where = f"the policy {path or 'default'}"
    if extra := set(row) - {"score", "rule", "limit", "why"}:
        raise BadValue(f"{where} has a field {min(extra)!r}; the fields are score, rule, limit, why")
    if missing := {"score", "rule", "limit"} - set(row):
        raise BadValue(f"{where} has a criterion without {min(missing)}; give score, rule and limit")
    if row["rule"] not in RULES:
        raise BadValue(f"{where} has a rule {row['rule']!r}; the rules are {', '.join(RULES)}")
    if not isinstance(row["limit"], int | float) or isinstance(row["limit"], bool):
        raise BadValue(f"{where} has a limit {row['limit']!r}; give a number")
    for name in str(row["score"]).split("|"):
        if name.partition("/")[0] not in known:
            raise BadValue(
                f"{where} names a score {name!r} of no metric that is known; `unlearn metrics` lists them"
            )
    return Criterion(str(row["score"]), str(row["rule"]), float(row["limit"]), str(row.get("why", "")))


def _judged(c: Criterion, scores: Sequence[Score]) -> Finding:
    names = c.score.split("|")
    there = [s for name in names for s in scores if s.name == name]
    found = next((s for s in there if s.value is not None), there[0] if there else None)
    if found is None:
        return Finding(c, "cannot tell", "not measured")
    if found.value is None:
        return Finding(c, "cannot tell", found.note or "no value")
    if found.powerless:
        return Finding(c, "cannot tell", f"{found.value:.3g}; {found.note or 'the attack is powerless'}")
    if c.rule in ("at-most", "at-least"):
        holds = found.value <= c.limit if c.rule == "at-most" else found.value >= c.limit
        return Finding(c, "pass" if holds else "fail", f"{found.value:.3g}")
    if c.rule == "floor":
        if found.floor is None:
            return Finding(c, "cannot tell", "there is no floor")
        holds = found.value <= c.limit * found.floor
        return Finding(c, "pass" if holds else "fail", f"{found.value:.3g}, floor {found.floor:.3g}")
    return _against_oracle(c, found)


def _against_oracle(c: Criterion, found: Score) -> Finding:
    if found.value is None or found.reference is None:
        return Finding(c, "cannot tell", "there is no oracle to compare with")
    said = f"{found.value:.3g}, oracle {found.reference:.3g}"
    half = None if found.low is None or found.high is None else (found.high - found.low) / 2
    if c.rule == "within":
        beyond = abs(found.value - found.reference) - c.limit - 1e-9
        if beyond <= 0 or half is None:
            return Finding(c, "pass" if beyond <= 0 else "fail", said)
        doubt = 2**0.5 * half
        return Finding(c, "cannot tell" if beyond <= doubt else "fail", f"{said}, known to ± {doubt:.2g}")
    if half is None:
        return Finding(c, "cannot tell", f"{said}; its uncertainty is not known")
    slack = c.limit * math.hypot(half / 1.96, found.floor or 0.0)
    apart = found.value - found.reference
    holds = apart >= -slack if c.rule == "not-below" else apart <= slack
    return Finding(c, "pass" if holds else "fail", f"{said}, give or take {slack:.2g}")
