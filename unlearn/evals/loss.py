"""Training loss."""

from __future__ import annotations

from unlearn.filling import Completes
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics
from unlearn.subject import Classifies, HasLoss, Regresses


@metrics.register("loss")
class Loss(Metric):
    """Mean training loss on forget, retain and test data; of any model that has one.

    Where classes are removed, held-out examples of the removed and of the kept classes are told apart.

    References:
        Golatkar et al., 2020, Eternal sunshine of the spotless net, arXiv:1911.04933
    """

    needs = HasLoss

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        subject = ev.subjects["unlearned"]
        unit = "nats" if isinstance(subject, Classifies) else "" if isinstance(subject, Regresses) else "loss"
        return [self._score(ev, where, unit) for where in scored(ev)]

    def _score(self, ev: Evidence, where: str, unit: str) -> Score:
        losses = ev.losses("unlearned", where)
        return ev.level(
            f"loss/{where}", lambda who: ev.losses(who, where).double().mean(), Aim.MATCH, metric=self.name,
            unit=unit, n=len(losses), headline=unit == "loss" and not isinstance(ev.subjects["unlearned"], Completes), **ends_of_mean(losses),
        )  # fmt: skip
