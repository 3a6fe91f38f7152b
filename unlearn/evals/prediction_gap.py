"""Distance of each predicted value from the oracle's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.stats import ends_of_mean
from unlearn.ops.values import predictions, unit
from unlearn.registry import metrics
from unlearn.subject import Regresses


@metrics.register("prediction-gap")
class PredictionGap(Metric):
    """Mean distance of the predicted values from the oracle's, example by example.

    Mean |ŷ_u − ŷ_r| on the forget set and on held-out examples of what is kept, in the unit of the targets: activation
    distance for values. Two oracles differ too, by the floor.

    References:
        Golatkar et al., 2021, Mixed-privacy forgetting in deep networks, arXiv:2012.13431 (for probabilities)
    """

    needs: ClassVar[type] = Regresses

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return [self._score(ev, where) for where in ("forget", kept_test(ev))]

    def _score(self, ev: Evidence, where: str) -> Score:
        def apart(a: str, b: str) -> Tensor:
            return (predictions(ev, a, where) - predictions(ev, b, where)).abs().mean(1)

        return ev.distance(
            f"prediction-gap/{where}", lambda a, b: apart(a, b).mean(), Aim.DOWN,
            lambda: ends_of_mean(apart("unlearned", "oracle")), metric=self.name, unit=unit(ev), n=len(ev.y(where)),
        )  # fmt: skip
