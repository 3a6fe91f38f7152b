"""Accuracy lost by single classes."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.registry import metrics

SHOWN = 5


@metrics.register("per-class")
class PerClass(Metric):
    """Largest loss of test accuracy of any kept class: damage that a mean hides.

    For each class c that is kept, drop_c = Acc_c(θ₀) − Acc_c(θ) on held-out examples; the score is the
    largest, and its note names the classes with the largest drops.

    References:
        None; a count.
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score, its note naming the classes most harmed."""
        where = kept_test(ev)
        y, before = ev.y(where), ev.correct("original", where)
        if not len(y):
            return []
        found, drops = class_drops(before, ev.correct("unlearned", where), y)
        worst = drops.argsort(descending=True)[:SHOWN].tolist()
        harmed = [f"{_name(ev, int(found[i]))} {drops[i]:.1%}" for i in worst if drops[i] > 0]
        return [ev.level(
            "per-class/worst-drop", lambda who: class_drops(before, ev.correct(who, where), y)[1].max(),
            Aim.DOWN, metric=self.name, n=len(y),
            note=f"accuracy lost by class: {', '.join(harmed)}" if harmed else "no class lost accuracy",
        )]  # fmt: skip


def class_drops(before: Tensor, after: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy that each class lost.

    Args:
        before: Whether the original is right, with shape (N,).
        after: Whether the model is right, with shape (N,).
        y: Class ids, with shape (N,).

    Returns:
        The J classes that occur, sorted, and the loss of accuracy of each, both with shape (J,).

    Example:
        >>> right, wrong = torch.ones(4), torch.tensor([1, 1, 1, 0])
        >>> class_drops(right.bool(), wrong.bool(), torch.tensor([0, 0, 7, 7]))[1].tolist()
        [0.0, 0.5]
    """
    classes, place, counts = y.unique(return_inverse=True, return_counts=True)
    lost = before.double() - after.double()
    return classes, torch.zeros(len(classes)).double().index_add(0, place, lost) / counts


def _name(ev: Evidence, label: int) -> str:
    return ev.classes[label] if ev.classes else str(label)
