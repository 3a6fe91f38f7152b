"""Jensen-Shannon divergence from the oracle."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.divergence import js
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("js")
class Js(Metric):
    """How far the predictions are from the oracle's, on forget and test data.

    The mean over examples of

        JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m),   m = (p + q) / 2,

    with p the prediction of the unlearned model and q that of the oracle; at most log 2 nats. The floor is
    the value between two oracles.

    References:
        Chundawat et al., 2023, Can bad teaching induce forgetting?, arXiv:2205.08096

    Differences from the authors' released code:
        Theirs reverses the divergences and divides by the number of classes; see `zrf`.
    """

    variant: Literal["nats", "bits"] = knob("nats", "unit of information")

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return [self._score(ev, where) for where in ("forget", "test")]

    def _score(self, ev: Evidence, where: str) -> Score:
        def between(a: str, b: str) -> Tensor:
            nats = js(ev.outputs(a, where), ev.outputs(b, where))
            return nats / math.log(2) if self.variant == "bits" else nats

        return ev.distance(
            f"js/{where}", lambda a, b: between(a, b).mean(), Aim.DOWN,
            lambda: ends_of_mean(between("unlearned", "oracle")), metric=self.name, unit=self.variant, n=len(ev.y(where)),
            variant="" if self.variant == "nats" else self.variant, headline=where == "forget",
        )  # fmt: skip
