"""Activation distance to the oracle."""

from __future__ import annotations

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.divergence import output_distance
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("activation-distance")
class ActivationDistance(Metric):
    """Mean distance of the predicted probabilities from the oracle's on the forget set.

    The mean over examples of ‖p_u − p_r‖, in the Euclidean norm (`l2`) and in the sum of absolute values
    (`l1`).

    References:
        Golatkar et al., 2021, Mixed-privacy forgetting in deep networks, arXiv:2012.13431 (l1)
        Foster et al., 2024, Fast machine unlearning without retraining through selective synaptic
        dampening, arXiv:2308.07707 (l2)
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each norm."""
        return [self._score(ev, norm) for norm in (2, 1)]

    def _score(self, ev: Evidence, norm: int) -> Score:
        def apart(a: str, b: str) -> Tensor:
            return output_distance(ev.outputs(a, "forget"), ev.outputs(b, "forget"), norm)

        return ev.distance(
            f"activation-distance/l{norm}", lambda a, b: apart(a, b).mean(), Aim.DOWN,
            lambda: ends_of_mean(apart("unlearned", "oracle")), metric=self.name, n=len(ev.y("forget")),
        )  # fmt: skip
