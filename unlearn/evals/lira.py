"""Likelihood-ratio attack (LiRA), offline: each example against models that never saw it."""

from __future__ import annotations

from typing import ClassVar, Literal

from unlearn.knobs import knob
from unlearn.metric import Evidence, Metric, Score, Signal
from unlearn.ops.attacked import Attacked
from unlearn.ops.crowded import by_id, margins_of
from unlearn.ops.membership import Floats
from unlearn.ops.shadows import lira_offline
from unlearn.registry import metrics


@metrics.register("lira")
class Lira(Metric):
    """How well an example's margin, against those of models without it, gives it away.

    With a normal distribution of the margins m = log(p_y / (1 − p_y)) of models that did not see the example, the signal
    is log Φ((m − μ_out) / σ_out). The models are trained on random halves of the training set; held-out examples none of
    them saw. Forgotten examples are compared with held-out examples like them, as in `mia`.

    References:
        Carlini et al., 2022, Membership inference attacks from first principles, arXiv:2112.03570

    Differences from the authors' released code:
        Margins of plain images, without augmented copies. μ is the mean; theirs takes the median, `center="median"`.
        The online form, which also needs models that saw the example, is `u-lira`: of held-out examples there are none.
    """

    basic: ClassVar[bool] = False
    models: int = knob(16, "models on random halves; an even number", ge=4)
    shared: bool = knob(True, "one σ for all examples, better below some 64 models")
    center: Literal["mean", "median"] = knob("mean", "what μ is")
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        return {"half": self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """The attack's scores."""
        return list(Attacked(ev, self.name, "lira", self._signal(ev), self.draws).scores())

    def attacks(self, ev: Evidence) -> dict[str, Signal]:
        """See `Metric.attacks`."""
        return {"LiRA": self._signal(ev)}

    def _signal(self, ev: Evidence) -> Signal:
        crowd = ev.crowd("half", self.models)

        def signal(who: str, where: str) -> Floats:
            seen = lira_offline(
                margins_of(ev, who, where),
                crowd.margins(where),
                crowd.inside(where),
                self.shared,
                self.center,
            )
            values: Floats = seen[by_id(ev, where)].numpy()
            return values

        return signal
