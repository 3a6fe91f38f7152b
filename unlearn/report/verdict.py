"""The verdict in plain words, from thresholds that every report states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unlearn.report import Report, completion, erasure
from unlearn.report.held import held
from unlearn.report.judgement import WORDS, Judgement, Kind
from unlearn.report.summary import Cell, Group, groups, number
from unlearn.report.yardstick import ACCURACY, Yardstick
from unlearn.score import Aim, Score

ATTACK_WITHIN = 0.05
"""The attack's AUC counts as the oracle's within this distance."""
CRITERIA = ACCURACY.said(ATTACK_WITHIN)
KINDS = (erasure, completion)
"""Modules with rules of their own: for drawings, and for completed images."""
POLICY: dict[str, tuple[Kind, str]] = {
    "pass": ("forgotten", "Passes the policy"),
    "fail": ("not", "Fails the policy"),
    "cannot tell": ("unclear", "Cannot tell by the policy"),
}
"""What a report is called that has a policy, by the policy's state."""
LIMITS = "Unlearning is approximate unless the method is exact, and this evidence is empirical: it is no certificate."


def verdict(reports: Sequence[Report]) -> str:
    """The verdict in plain words: of one method its reasons, of several who did what."""
    said = overall(groups(reports))
    return f"{said.words}. {said.text} {LIMITS}"


def overall(found: Sequence[Group]) -> Judgement:
    """The verdict on one group, or how many of several forgot and kept the rest, and what the others did."""
    if len(found) == 1:
        return concluded(found[0])
    judged = [(g.label, concluded(g)) for g in found]
    order = list(WORDS)
    words = dict.fromkeys(j.words for _, j in sorted(judged, key=lambda pair: order.index(pair[1].kind)))
    text = " ".join(f"{w}: {', '.join(label for label, j in judged if j.words == w)}." for w in words)
    kinds = [j.kind for _, j in judged]
    good = kinds.count("forgotten")
    kind: Kind = "forgotten" if good else "unclear" if {"unclear", "unknown", "partly"} & {*kinds} else "not"
    done = "forgot as the oracle and kept the rest"
    if all(held(g.reports) for g in found):
        done = "pass the policy"
    elif all(map(erasure.concerns, found)):
        done, text = "erased and left the neighbours intact", f"{text} {erasure.attacks(found)}"
    elif all(map(completion.concerns, found)):
        done = "forgot and completed the rest as before"
    return Judgement(kind, f"{good} of {len(found)} {done}", text)


def criteria(found: Sequence[Group]) -> str:
    """The rules of the verdicts on these groups, for the reader."""
    own = ([k.CRITERIA for k in KINDS if k.concerns(g)] for g in found)
    rules = [next(iter(said), g.yardstick.said(ATTACK_WITHIN)) for said, g in zip(own, found, strict=True)]
    return " ".join(dict.fromkeys(rules))


def concluded(group: Group) -> Judgement:
    """The verdict on one group: that of the policy which was fixed before the run, where there is one, else `judge`."""
    said, policy = judge(group), held(group.reports)
    if policy is None:
        return said
    kind, words = POLICY[policy.state]
    failed = [line.why or line.asked for line in policy.lines if line.state == "fail"]
    missed = f" What fails: {'; '.join(failed)}." if failed else ""
    return Judgement(
        kind, words, f"{policy.words}{missed} Of the first table alone: {said.words}. {said.text}"
    )


def judge(group: Group) -> Judgement:
    """What the scores of every suite say; thresholds are the constants of this module, or of that of its kind in `KINDS`."""
    for kind in KINDS:
        if kind.concerns(group):
            said: Judgement = kind.judge(group)
            return said
    forget, held, by = group.forget, group.held_out, group.yardstick
    if group.idle:
        return _said("nothing", f"Not one weight changed.{_still(forget, by)}")
    if (broken := collapsed(group)) > 0 and held is not None:
        where = "" if len(group.reports) == 1 else f" in {broken} of {len(group.reports)} seeds"
        how = "its answers are not finite numbers" if held.value is None else _kept(held, by)
        return _said("destroyed", f"The model is broken{where}: {how}. "
                     "What such a model no longer knows says nothing about forgetting.")  # fmt: skip
    if forget is None or held is None or forget.value is None or held.value is None:
        return _said(
            "unknown",
            f"This subject is measured neither by accuracy nor by errors, so no threshold applies.{_gaps(group)}",
        )
    if forget.reference is None or held.reference is None:
        before, after = ([by.write(v, c.score.unit) for c, v in pairs] for pairs in (
            ((forget, forget.original), (held, held.original)), ((forget, forget.value), (held, held.value))))  # fmt: skip
        return _said("unknown", f"There is no retrained model to compare with. {by.names[0]} went from "
                     f"{before[0]} to {after[0]}, {by.names[1]} from {before[1]} to {after[1]}.")  # fmt: skip
    return _compared(group, forget, held)


def collapsed(group: Group) -> int:
    """In how many seeds held-out examples are answered much worse than by the oracle, or the original without one."""
    held = group.held_out
    scores = [r.score(held.name) for r in group.reports] if held else []
    return sum(_broken(s, group.yardstick) for s in scores if s is not None)


def _compared(group: Group, forget: Cell, held: Cell) -> Judgement:
    """The verdict where there is an oracle."""
    attack, by = group.attack, group.yardstick
    sides = [_side(forget, by.limit(by.forget_within, forget.reference), by.larger_knows)]
    said = _filled(by.forgot, forget, by)
    if attack is not None and attack.value is not None and attack.reference is not None:
        said += (
            f"; the loss attack reaches an AUC of {attack.value:.2f}, on the oracle {attack.reference:.2f}"
        )
        if _alike_before(attack, ATTACK_WITHIN):
            said += (
                ", and is powerless: it does not tell the original from the oracle, so nothing rests on it."
            )
        else:
            sides.append(_side(attack, ATTACK_WITHIN))
            said += "."
    else:
        said += "; no membership attack was run, so privacy is not judged."
    kept = _side(held, by.limit(by.kept_within, held.reference), by.larger_knows)
    utility = f"{_capital(_kept(held, by))}."
    if "above" in sides:
        kind: Kind = "not" if sides[0] == "above" else "visible"
    elif "below" in sides:
        kind, said = "over", f"{said} Doing worse on them than a model that never saw them gives them away."
    elif "unclear" in sides or kept == "unclear":
        kind = "unclear"
    else:
        kind = "partly" if kept == "below" else "forgotten"
    if (
        kind == "forgotten"
        and _alike_before(forget, by.limit(by.forget_within, forget.reference))
        and (attack is None or _alike_before(attack, ATTACK_WITHIN))
    ):
        kind, said = (
            "unknown",
            f"{said} Before unlearning the model was as close to the oracle, so these scores cannot show that anything was forgotten.",
        )
    if kept == "below":
        utility = f"The rest suffered: {_kept(held, by)}."
    return _said(kind, f"{said} {utility}{_doubt(group)}")


def _side(
    cell: Cell, within: float, larger_knows: bool = True
) -> Literal["inside", "above", "below", "unclear"]:
    """On which side of the oracle's value a score lies, if it is not within a distance of it; above knows more."""
    if cell.excess is None or abs(cell.excess) <= within:
        return "inside"
    if abs(cell.excess) <= (cell.doubt or 0.0):
        return "unclear"
    return "above" if (cell.excess > 0) == larger_knows else "below"


def _alike_before(cell: Cell, within: float) -> bool:
    """Whether the original lies within a distance of the oracle: a score that doing nothing passes has no power."""
    if cell.original is None or cell.reference is None:
        return True
    return abs(cell.original - cell.reference) <= within


def _doubt(group: Group) -> str:
    """A sentence on scores whose distance from the oracle is not known well enough for the thresholds."""
    by = group.yardstick
    pairs = ((group.forget, by.forget_within), (group.held_out, by.kept_within))
    forget, held = ((c, by.limit(within, c.reference if c else None)) for c, within in pairs)
    checks = (forget, (group.attack, ATTACK_WITHIN), held)
    vague = [f"{c.name} to ± {number(c.doubt)}" for c, within in checks if c and c.doubt and c.doubt > within]
    if not vague:
        return ""
    return (
        f" With so few data or seeds, the distance from the oracle is known only roughly: {', '.join(vague)}."
    )


def _said(kind: Kind, text: str) -> Judgement:
    return Judgement(kind, WORDS[kind], text)


def _filled(sentence: str, cell: Cell, by: Yardstick) -> str:
    """A sentence with a score's value and the oracle's, or the original's where there is no oracle."""
    whose, other = (
        ("the original", cell.original) if cell.reference is None else ("the oracle", cell.reference)
    )
    value, against = (by.write(v, cell.score.unit) for v in (cell.value, other))
    return sentence.format(value=value, other=against, whose=whose)


def _kept(held: Cell, by: Yardstick) -> str:
    return _filled(by.kept, held, by)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _broken(score: Score, by: Yardstick) -> bool:
    if score.diverged:
        return True
    against = score.reference if score.reference is not None else score.original
    return score.value is not None and against is not None and by.collapsed(score.value, against)


def _still(forget: Cell | None, by: Yardstick) -> str:
    if forget is None or forget.value is None:
        return ""
    beside = "" if forget.reference is None else by.still[1]
    return f" {_filled(by.still[0] + beside, forget, by)}."


def _gaps(group: Group) -> str:
    known = [c for c in group.headline if c.score.aim is Aim.MATCH and c.gap is not None]
    if not known:
        return " There is no oracle to compare with." if all(c.reference is None for c in group.cells) else ""
    said = ", ".join(f"{c.name} {number(c.gap)}" for c in known)
    return f" Distances from the oracle: {said}."
