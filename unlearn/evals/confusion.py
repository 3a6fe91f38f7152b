"""Confusion of two classes whose labels were swapped in part (interclass confusion)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.spoiling import Confusion as Way
from unlearn.ops.spoiling import without
from unlearn.ops.stats import ends_of_share, wilson
from unlearn.registry import metrics


@metrics.register("confusion")
class Confusion(Metric):
    """How far two classes whose training labels were swapped in part are still taken for each other.

    With C the confusion matrix of held-out examples, C_ij those of class i that are taken for j, and a and b the two
    classes, `confusion/test` is (C_ab + C_ba) / Σ_j (C_aj + C_bj): what was learnt of the swap as a property.
    `confusion/forget` is the error on the forget set under its swapped labels, which is small while these are
    memorised.

    References:
        Goel et al., 2022, Towards adversarial evaluations for inexact machine unlearning, arXiv:2201.06640
    """

    basic: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = (Way.kind,)

    def measure(self, ev: Evidence) -> list[Score]:
        """The rate on held-out examples and, where swapped labels are forgotten, the error on these."""
        where = f"{Way.kind}_test"
        if where not in ev.handles or len(ev.y(where).unique()) != 2:
            return [without(self, "confusion/test", Aim.DOWN)]
        a, b = ev.y(where).unique().tolist()

        def rate(who: str) -> float:
            return confused(matrix(ev.y("test"), ev.outputs(who, "test")), a, b)[1]

        count = confused(matrix(ev.y("test"), ev.outputs("unlearned", "test")), a, b)[0]
        n = int(torch.isin(ev.y("test"), torch.tensor((a, b))).sum())
        low, high = wilson(count, n)
        found = [ev.level("confusion/test", rate, Aim.DOWN, metric=self.name, n=n, headline=True,
                          low=low, high=high, interval="wilson 95 %",
                          note=f"{count} of {n} examples of both classes are confused")]  # fmt: skip
        if ev.request == Way.kind:
            wrong = ~ev.correct("unlearned", "forget")
            found.append(ev.level(
                "confusion/forget", lambda who: 1 - ev.correct(who, "forget").double().mean(), Aim.MATCH,
                metric=self.name, n=len(wrong), **ends_of_share(wrong),
            ))  # fmt: skip
        return found


def matrix(y: Tensor, outputs: Tensor) -> Tensor:
    """Confusion matrix with shape (C, C): examples of class i (row) that are taken for class j (column).

    Args:
        y: Class ids, with shape (N,).
        outputs: Logits, with shape (N, C).
    """
    from sklearn.metrics import confusion_matrix

    ids = list(range(outputs.shape[1]))
    return torch.from_numpy(confusion_matrix(y.numpy(), outputs.argmax(1).numpy(), labels=ids))


def confused(counts: Tensor, a: int, b: int) -> tuple[int, float]:
    """Examples of two classes that are taken for the other one: how many, and their share of both classes.

    Args:
        counts: Confusion matrix, true classes in rows, with shape (C, C).
        a: Id of one class.
        b: Id of the other.

    Example:
        >>> confused(torch.tensor([[40, 8, 2], [10, 35, 5], [1, 3, 46]]), 0, 1)
        (18, 0.18)
    """
    both = int(counts[a, b] + counts[b, a])
    return both, both / int(counts[a].sum() + counts[b].sum())
