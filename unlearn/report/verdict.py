"""The verdict in plain words, from thresholds that every report states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unlearn.report import Report, completion, erasure
from unlearn.report.judgement import Judgement, Kind
from unlearn.report.summary import Cell, Group, groups, number, percent
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
    f"loss attack within {ATTACK_WITHIN:g} of the oracle's, on either side: a model that answers forgotten examples "
    f"worse than one that never saw them gives them away as well. Kept: held-out accuracy at most "
    f"{100 * KEPT_WITHIN:g} points below the oracle's. A distance beyond these that is no larger than its own "
    f"uncertainty is too close to call; the uncertainty is the 95 % interval of the difference over seeds, or √2 times "
    f"that of the score for a single seed. Destroyed: held-out accuracy in any seed below {100 * COLLAPSE:g} % of the "
    f"oracle's, or of the original's where there is no oracle. Where the original itself counts as forgotten by these "
    f"rules, nothing can be told. The oracle is the model retrained without the forget "
    f"set; without it nobody can tell."
)
KINDS = (erasure, completion)
"""Modules with rules of their own: for drawings, and for completed images."""
LIMITS = "Unlearning is approximate and this evidence is empirical: it is no certificate."

WORDS: dict[Kind, str] = {
    "forgotten": "Forgotten and kept",
    "partly": "Forgotten, but at a price",
    "unclear": "Too close to call",
    "over": "Over-forgotten",
    "visible": "Still visible to the attack",
    "not": "Not forgotten",
    "nothing": "Nothing happened",
    "destroyed": "Destroyed",
    "unknown": "Cannot tell",
}


def verdict(reports: Sequence[Report]) -> str:
    """The verdict in plain words: of one method its reasons, of several who did what."""
    said = overall(groups(reports))
    return f"{said.words}. {said.text} {LIMITS}"


def overall(found: Sequence[Group]) -> Judgement:
    """The verdict on one group, or how many of several forgot and kept the rest, and what the others did."""
    if len(found) == 1:
        return judge(found[0])
    judged = [(g.label, judge(g)) for g in found]
    order = list(WORDS)
    words = dict.fromkeys(j.words for _, j in sorted(judged, key=lambda pair: order.index(pair[1].kind)))
    text = " ".join(f"{w}: {', '.join(label for label, j in judged if j.words == w)}." for w in words)
    kinds = [j.kind for _, j in judged]
    good = kinds.count("forgotten")
    kind: Kind = "forgotten" if good else "unclear" if {"unclear", "unknown", "partly"} & {*kinds} else "not"
    done = "forgot as the oracle and kept the rest"
    if all(map(erasure.concerns, found)):
        done, text = "erased and left the neighbours intact", f"{text} {erasure.attacks(found)}"
    elif all(map(completion.concerns, found)):
        done = "forgot and completed the rest as before"
    return Judgement(kind, f"{good} of {len(found)} {done}", text)


def criteria(found: Sequence[Group]) -> str:
    """The rules of the verdicts on these groups, for the reader."""
    rules = [next((k.CRITERIA for k in KINDS if k.concerns(g)), CRITERIA) for g in found]
    return " ".join(dict.fromkeys(rules))


def judge(group: Group) -> Judgement:
    """The verdict on one group; thresholds are the constants of this module, or of that of its kind in `KINDS`."""
    for kind in KINDS:
        if kind.concerns(group):
            said: Judgement = kind.judge(group)
            return said
    forget, held = group.forget, group.held_out
    if group.idle:
        return _said("nothing", f"Not one weight changed.{_still(forget)}")
    if forget is None or held is None or forget.value is None or held.value is None:
        return _said(
            "unknown", f"This subject is not measured by accuracy, so no threshold applies.{_gaps(group)}"
        )
    if (broken := collapsed(group)) > 0:
        where = "" if len(group.reports) == 1 else f" in {broken} of {len(group.reports)} seeds"
        whose = f"the original {percent(held.original)}" if held.reference is None else _oracle(held)
        return _said("destroyed", f"The model is broken{where}: {percent(held.value)} of held-out examples are answered correctly, "
                     f"by {whose}. What such a model no longer knows says nothing about forgetting.")  # fmt: skip
    if forget.reference is None or held.reference is None:
        return _said("unknown", f"There is no retrained model to compare with. Accuracy on the forget set went from "
                     f"{percent(forget.original)} to {percent(forget.value)}, held-out accuracy from "
                     f"{percent(held.original)} to {percent(held.value)}.")  # fmt: skip
    return _compared(group, forget, held)


def collapsed(group: Group) -> int:
    """In how many seeds held-out accuracy is below `COLLAPSE` times the oracle's, or the original's without one."""
    held = group.held_out
    scores = [r.score(held.name) for r in group.reports] if held else []
    return sum(_below(s) for s in scores if s is not None)


def _compared(group: Group, forget: Cell, held: Cell) -> Judgement:
    """The verdict where there is an oracle."""
    attack = group.attack
    sides = [_side(forget, FORGET_WITHIN)]
    said = f"{percent(forget.value)} of the forgotten examples are answered correctly, by a model retrained without them (the oracle) {percent(forget.reference)}"
    if attack is not None and attack.value is not None and attack.reference is not None:
        sides.append(_side(attack, ATTACK_WITHIN))
        said += (
            f"; the loss attack reaches an AUC of {attack.value:.2f}, on the oracle {attack.reference:.2f}."
        )
    else:
        said += "; no membership attack was run, so privacy is not judged."
    kept = _side(held, KEPT_WITHIN)
    utility = f"{percent(held.value)} of held-out examples are answered correctly, by {_oracle(held)}."
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
        and _alike_before(forget, FORGET_WITHIN)
        and (attack is None or _alike_before(attack, ATTACK_WITHIN))
    ):
        kind, said = (
            "unknown",
            f"{said} Before unlearning the model was as close to the oracle, so these scores cannot show that anything was forgotten.",
        )
    if kept == "below":
        utility = f"The rest suffered: {utility}"
    return _said(kind, f"{said} {utility}{_doubt(group)}")


def _side(cell: Cell, within: float) -> Literal["inside", "above", "below", "unclear"]:
    """On which side of the oracle's value a score lies, if it is not within a distance of it."""
    if cell.excess is None or abs(cell.excess) <= within:
        return "inside"
    if abs(cell.excess) <= (cell.doubt or 0.0):
        return "unclear"
    return "above" if cell.excess > 0 else "below"


def _alike_before(cell: Cell, within: float) -> bool:
    """Whether the original lies within a distance of the oracle: a score that doing nothing passes has no power."""
    if cell.original is None or cell.reference is None:
        return True
    return abs(cell.original - cell.reference) <= within


def _doubt(group: Group) -> str:
    """A sentence on scores whose distance from the oracle is not known well enough for the thresholds."""
    checks = ((group.forget, FORGET_WITHIN), (group.attack, ATTACK_WITHIN), (group.held_out, KEPT_WITHIN))
    vague = [f"{c.name} to ± {number(c.doubt)}" for c, within in checks if c and c.doubt and c.doubt > within]
    if not vague:
        return ""
    return (
        f" With so few data or seeds, the distance from the oracle is known only roughly: {', '.join(vague)}."
    )


def _said(kind: Kind, text: str) -> Judgement:
    return Judgement(kind, WORDS[kind], text)


def _oracle(cell: Cell) -> str:
    return f"the oracle {percent(cell.reference)}"


def _below(score: Score) -> bool:
    against = score.reference if score.reference is not None else score.original
    return score.value is not None and against is not None and score.value < COLLAPSE * against


def _still(forget: Cell | None) -> str:
    if forget is None or forget.value is None:
        return ""
    oracle = "" if forget.reference is None else f", by the oracle {percent(forget.reference)}"
    return f" {percent(forget.value)} of the forgotten examples are still answered correctly{oracle}."


def _gaps(group: Group) -> str:
    known = [c for c in group.headline if c.score.aim is Aim.MATCH and c.gap is not None]
    if not known:
        return " There is no oracle to compare with." if all(c.reference is None for c in group.cells) else ""
    said = ", ".join(f"{c.name} {number(c.gap)}" for c in known)
    return f" Distances from the oracle: {said}."
