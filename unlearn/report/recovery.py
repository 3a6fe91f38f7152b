"""What comes back: scores of models that learnt some of it again, or whose weights were rounded or pruned, together."""

from __future__ import annotations

from unlearn.report.summary import Cell, Group

METRICS = ("recovery", "relearn", "anamnesis")
KINDS = {
    "recovery/relearnt": "accuracy on the rest, a few examples learnt again",
    "relearn/steps": "steps until the loss is back",
    "anamnesis/epochs": "epochs until the error is back",
    "relearn/ain": "anamnesis index",
    "anamnesis/ain": "anamnesis index, in epochs",
    "recovery/8-bit": "accuracy with weights of 8 bits",
    "recovery/4-bit": "accuracy with weights of 4 bits",
    "recovery/pruned": "accuracy with the smallest weights at zero",
}
"""Words for the scores, in the order in which they are shown; those of a level, such as `recovery/pruned/0.5`, follow."""
HINT = (
    "What a model gives away once it is touched again: a copy of each learns a few of the forgotten examples, or has its "
    "weights rounded or pruned. What comes back in the oracle, too, was not remembered."
)


def recovered(group: Group) -> list[tuple[str, Cell]]:
    """The scores of the panel with words for each, in one order; none where nothing was tried."""
    order = list(KINDS)
    cells = [c for c in group.cells if c.score.metric in METRICS and _kind(c) in KINDS]
    return [(KINDS[_kind(c)], c) for c in sorted(cells, key=lambda c: order.index(_kind(c)))]


def _kind(cell: Cell) -> str:
    return "/".join(cell.name.split("/")[:2])
