"""Accuracy."""

from __future__ import annotations

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics


@metrics.register("accuracy")
class Accuracy(Metric):
    """Share of examples classified right, on forget, retain and test data.

    Where classes are removed, held-out examples are counted apart: those of the removed classes
    (`test_forget`) and of the others (`test_retain`), and after several requests those of the classes that the last one
    removed (`test_now`) and that earlier ones did (`test_earlier`): what was forgotten may come back. A good model answers the forget set as the oracle
    does, not worse.

    References:
        Fan et al., 2024, arXiv:2310.12508 (FA = 1 - UA, RA, TA)
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        later = [n for n in ("test_now", "test_earlier") if n in ev.views and len(ev.y(n))]
        return [self._score(ev, where) for where in (*scored(ev), *later)]

    def _score(self, ev: Evidence, where: str) -> Score:
        hits = ev.correct("unlearned", where)
        return ev.level(
            f"accuracy/{where}", lambda who: accuracy(ev.correct(who, where)), Aim.MATCH, metric=self.name,
            n=len(hits), headline=True, **ends_of_share(hits),
        )  # fmt: skip


def accuracy(correct: Tensor) -> float:
    """Share of True in a vector of shape (N,).

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([True, True, False, True]))
        0.75
    """
    return float(correct.double().mean())
