"""The verdict on unlearning in a model that completes images, from thresholds that every report states."""

from __future__ import annotations

from typing import Literal

from unlearn.report.judgement import WORDS, Judgement, Kind
from unlearn.report.summary import Cell, Group, number, percent

FORGET_WITHIN = 0.1
"""The error on the forget set counts as the oracle's within this share of it."""
ATTACK_WITHIN = 0.05
"""The attack's AUC counts as the oracle's within this distance."""
KEPT_WITHIN = 0.1
"""Held-out images of what is kept count as completed as before when their error is at most this share larger."""
COLLAPSE = 2.0
"""A model is destroyed when that error is this many times as large, which is 3 dB."""

CRITERIA = (
    f"Forgotten: the mean squared error of the pixels that are filled in on the forget set is at least the oracle's, less "
    f"{100 * FORGET_WITHIN:g} %, and the AUC of the loss attack within {ATTACK_WITHIN:g} of the oracle's, on either side: a "
    f"model that completes forgotten images worse than others like them gives them away as well. An error above the oracle's "
    f"is what a method aims at that makes noise of them, and the verdict says so. Kept: the error on held-out images of what "
    f"is kept is at most {100 * KEPT_WITHIN:g} % above the original's, or the oracle's where that is larger. A distance beyond "
    f"these that is no larger than its own uncertainty is too close to call; the uncertainty is the 95 % interval of the "
    f"difference over seeds, or √2 times that of the score for a single seed. Destroyed: in any seed that error is more than "
    f"{COLLAPSE:g} times as large. Where the original itself counts as forgotten by these rules, nothing can be told. The oracle "
    f"is the model retrained without the forget set; without it nobody can tell."
)
BEYOND = "Forgotten beyond the oracle, and kept"

Side = Literal["inside", "above", "below", "unclear"]


def concerns(group: Group) -> bool:
    """Whether a group is about images that a model completes."""
    return group.cell("completion/mse/forget") is not None


def judge(group: Group) -> Judgement:
    """The verdict on one such group; the thresholds are the constants of this module."""
    forget, kept = group.cell("completion/mse/forget"), held_out(group)
    if group.idle:
        return _said("nothing", f"Not one weight changed.{_still(forget)}")
    if forget is None or kept is None or forget.value is None or kept.value is None:
        return _said(
            "unknown", "The errors of the completed images are not all known, so no threshold applies."
        )
    if (broken := collapsed(group)) > 0:
        where = "" if len(group.reports) == 1 else f" in {broken} of {len(group.reports)} seeds"
        return _said("destroyed", f"The model is broken{where}: {_utility(kept)} What such a model no longer completes says "
                     f"nothing about forgetting.")  # fmt: skip
    if forget.reference is None:
        return _said("unknown", f"There is no retrained model to compare with. The error on the forget set went from "
                     f"{number(forget.original)} to {number(forget.value)}. {_utility(kept)}")  # fmt: skip
    return _compared(group, forget, kept)


def held_out(group: Group) -> Cell | None:
    """The error on held-out images of what is kept."""
    return group.cell("completion/mse/test_retain", "completion/mse/test")


def collapsed(group: Group) -> int:
    """In how many seeds the error on what is kept is more than `COLLAPSE` times as large as it should be."""
    name = held_out(group)
    scores = [r.score(name.name) for r in group.reports] if name else []
    return sum(
        s is not None and s.value is not None and s.value > COLLAPSE * _should(s.original, s.reference)
        for s in scores
    )


def _compared(group: Group, forget: Cell, kept: Cell) -> Judgement:
    """The verdict where there is an oracle."""
    error, attack, spared = (
        _side(forget, FORGET_WITHIN * _of(forget.reference)),
        _attack(group),
        _spared(kept),
    )
    said = [_seen(forget), _recognised(group), _attacked(group)]
    kind, words = _kind(error, attack, spared)
    if error == "above" and kind in ("forgotten", "partly"):
        said.append("Forgotten images are completed worse than by a model that never saw them.")
    if attack == "below":
        said.append("Completing them worse than others like them gives them away.")
    if kind == "forgotten" and _alike_before(forget):
        kind, words = "unknown", WORDS["unknown"]
        said.append(
            "Before unlearning the model was as close to the oracle, so these scores cannot show that anything was forgotten."
        )
    said.append(("The rest suffered: " if spared == "above" else "") + _utility(kept))
    if (forget.doubt or 0.0) > FORGET_WITHIN * _of(forget.reference):
        said.append(
            f"With so few data or seeds, the distance of the first error from the oracle's is known only to ± {number(forget.doubt)}."
        )
    return Judgement(kind, words, " ".join(s for s in said if s))


def _kind(error: Side, attack: Side, spared: Side) -> tuple[Kind, str]:
    """What happened, from where the error, the attack and the error on what is kept lie."""
    if error == "below":
        kind: Kind = "not"
    elif attack in ("above", "below"):
        kind = "visible" if attack == "above" else "over"
    elif "unclear" in (error, attack, spared):
        kind = "unclear"
    else:
        kind = "partly" if spared == "above" else "forgotten"
    return kind, BEYOND if kind == "forgotten" and error == "above" else WORDS[kind]


def _side(cell: Cell, within: float) -> Side:
    """On which side of the oracle's value a score lies, if it is not within a distance of it."""
    if cell.excess is None or abs(cell.excess) <= within:
        return "inside"
    if abs(cell.excess) <= (cell.doubt or 0.0):
        return "unclear"
    return "above" if cell.excess > 0 else "below"


def _attack(group: Group) -> Side:
    found = group.attack
    return "inside" if found is None else _side(found, ATTACK_WITHIN)


def _spared(kept: Cell) -> Side:
    """Whether what is kept is completed as well as it should be."""
    should = _should(kept.original, kept.reference)
    return "above" if _of(kept.value) > (1 + KEPT_WITHIN) * should else "inside"


def _should(original: float | None, reference: float | None) -> float:
    """The error that is as good as before: the original's, or the oracle's where that is larger."""
    return max(_of(original), _of(reference))


def _alike_before(forget: Cell) -> bool:
    """Whether the original lies within the distance that counts as forgotten."""
    return _of(forget.original) >= (1 - FORGET_WITHIN) * _of(forget.reference)


def _of(value: float | None) -> float:
    return 0.0 if value is None else value


def _seen(forget: Cell) -> str:
    return (
        f"What is filled in of the forgotten images has a mean squared error of {number(forget.value)}, by a model retrained "
        f"without them (the oracle) {number(forget.reference)}, before unlearning {number(forget.original)}."
    )


def _recognised(group: Group) -> str:
    found = group.cell("completion-accuracy/forget")
    if found is None or found.value is None:
        return ""
    return (
        f"A judge recognises {percent(found.value)} of them, {percent(found.reference)} as the oracle completes them, and "
        f"{percent(found.original)} as the original did."
    )


def _attacked(group: Group) -> str:
    found = group.attack
    if found is None or found.value is None or found.reference is None:
        return "No membership attack was run, so privacy is not judged."
    return f"The loss attack reaches an AUC of {found.value:.2f}, on the oracle {found.reference:.2f}."


def _utility(kept: Cell) -> str:
    oracle = "" if kept.reference is None else f", of the oracle {number(kept.reference)}"
    return f"Held-out images of what is kept have an error of {number(kept.value)}, of the original {number(kept.original)}{oracle}."


def _still(forget: Cell | None) -> str:
    if forget is None or forget.value is None:
        return ""
    oracle = "" if forget.reference is None else f", of the oracle {number(forget.reference)}"
    return f" Completions of the forget set still have an error of {number(forget.value)}{oracle}."


def _said(kind: Kind, text: str) -> Judgement:
    return Judgement(kind, WORDS[kind], text)
