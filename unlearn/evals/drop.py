"""Accuracy lost by unlearning."""

from __future__ import annotations

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import asked
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("drop")
class Drop(Metric):
    """Accuracy lost on what a request forgets, on what is kept, and on what was forgotten earlier.

    Drop = Acc(θ₀) − Acc(θ), with θ₀ the model before this request: what the one before left. `forget` and `retain` are
    held-out examples of the classes that the request removes and of those that are kept, or the sets of these names where
    it removes none; there the oracle's value is the aim. `earlier` are held-out examples of classes that earlier
    requests removed: a value below 0 says that they come back.

    References:
        Zhao et al., 2024, Continual forgetting for pre-trained vision models (GS-LoRA), arXiv:2403.11530
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each."""
        gone, kept = asked(ev)
        aims = {"forget": Aim.MATCH if gone == "forget" else Aim.UP, "retain": Aim.DOWN, "earlier": Aim.MATCH}
        places = {"forget": gone, "retain": kept}
        if "test_earlier" in ev.views:
            places["earlier"] = "test_earlier"
        return [self._score(ev, what, places[what], aims[what]) for what in places if len(ev.y(places[what]))]

    def _score(self, ev: Evidence, what: str, where: str, aim: Aim) -> Score:
        before = ev.correct("original", where)
        lost = dropped(before, ev.correct("unlearned", where))
        return ev.level(
            f"drop/{what}", lambda who: float(dropped(before, ev.correct(who, where)).mean()), aim, metric=self.name,
            n=len(before), **ends_of_mean(lost),
        )  # fmt: skip


def dropped(before: Tensor, after: Tensor) -> Tensor:
    """What each example takes part in the loss of accuracy: 1 where it was right and is wrong, −1 the other way, else 0.

    Args:
        before: Whether each was right, with shape (N,).
        after: Whether it is, with shape (N,).

    Example:
        >>> import torch
        >>> dropped(torch.tensor([True, True, False]), torch.tensor([False, True, True])).tolist()
        [1.0, 0.0, -1.0]
    """
    return before.double() - after.double()
