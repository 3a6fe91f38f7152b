"""Accuracy regained by forgetting what was spoilt."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.spoiling import without
from unlearn.ops.stats import fieller
from unlearn.registry import metrics
from unlearn.request import SPOILT

NAME = "regained"


@metrics.register(NAME)
class Regained(Metric):
    """How much of the held-out accuracy that spoilt examples cost comes back; 1 is all of it.

    With the accuracies of the original, the unlearned model and the oracle,

        (acc_u − acc_o) / (acc_r − acc_o),

    on examples that are not spoilt. There is none where the oracle is not distinguishably better than the original.

    References:
        None; a ratio.
    """

    basic: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = tuple(SPOILT)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score, the accuracies in its note."""
        if not any(f"{way}_test" in ev.handles for way in self.ways):
            return [without(self, NAME, Aim.UP)]
        if not ev.has_oracle:
            return [
                Score(name=NAME, metric=self.name, value=None, aim=Aim.UP, note="no reference: cannot tell")
            ]
        where = kept_test(ev)
        right = {who: ev.correct(who, where).double() for who in ev.subjects}
        told = ", ".join(f"{who} {right[who].mean():.1%}" for who in ("original", "unlearned", "oracle"))
        lost = right["oracle"] - right["original"]
        if not bounded(lost):
            said = f"the oracle is not distinguishably better than the original, so nothing was lost: {told}"
            return [Score(name=NAME, metric=self.name, value=None, aim=Aim.UP, n=len(lost), note=said)]
        return [ev.level(
            NAME, lambda who: regained(right[who], right["original"], right["oracle"]), Aim.UP, metric=self.name,
            n=len(lost), headline=True, note=f"accuracy: {told}", **ends(right["unlearned"] - right["original"], lost),
        )]  # fmt: skip


def regained(unlearned: Tensor, original: Tensor, oracle: Tensor) -> float:
    """Share of the lost accuracy that came back.

    Args:
        unlearned: Whether the unlearned model is right, as floats with shape (N,).
        original: The same of the original.
        oracle: The same of the oracle, which is better.

    Example:
        >>> import torch
        >>> one, half, most = (torch.tensor(v) for v in ([1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]))
        >>> regained(most, half, one)
        0.5
    """
    return float((unlearned - original).mean() / (oracle - original).mean())


def bounded(lost: Tensor) -> bool:
    """Whether a mean loss of accuracy is greater than 0 at 95 %, as a t-interval over examples has it, (N,)."""
    return bool(lost.mean() > 0) and fieller(lost, lost) is not None


def ends(gained: Tensor, lost: Tensor) -> Ends:
    """Fieller's interval of the ratio of two means over the same examples (N,), as fields of a score."""
    found = fieller(gained, lost)
    return (
        {}
        if found is None
        else {"low": found[0], "high": found[1], "interval": "t 95 %, Fieller's, over examples"}
    )
