"""Likelihood-ratio attack on the errors of regressors: each example against models that never saw it."""

from __future__ import annotations

from typing import ClassVar

from unlearn.knobs import knob
from unlearn.metric import Evidence, Metric, Score, Signal
from unlearn.ops.attacked import Attacked
from unlearn.ops.crowded import by_id
from unlearn.ops.membership import Floats
from unlearn.ops.shadows import errors, lira_errors
from unlearn.registry import metrics
from unlearn.subject import Regresses


@metrics.register("lira-error")
class LiraError(Metric):
    """How well a signed error that is small, against those of models without the example, gives it away.

    With a normal distribution N(μ, σ²) of the signed errors E of models that did not see the example, and e that of the
    attacked one, the signal is log P(|E| ≥ |e|): LiRA for values, whose errors need no margin to be near normal. The models
    are trained on random halves of the training set; held-out examples none of them saw. Forgotten examples are compared
    with held-out examples like them, as in `mia`.

    References:
        Carlini et al., 2022, Membership inference attacks from first principles, arXiv:2112.03570 (for classes)
    """

    needs: ClassVar[type] = Regresses
    basic: ClassVar[bool] = False
    models: int = knob(16, "models on random halves; an even number", ge=4)
    shared: bool = knob(True, "one σ for all examples, better below some 64 models")
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        return {"half": self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """The attack's scores."""
        return list(Attacked(ev, self.name, "lira-error", self._signal(ev), self.draws).scores())

    def attacks(self, ev: Evidence) -> dict[str, Signal]:
        """See `Metric.attacks`."""
        return {"LiRA": self._signal(ev)}

    def _signal(self, ev: Evidence) -> Signal:
        crowd = ev.crowd("half", self.models)

        def signal(who: str, where: str) -> Floats:
            own = errors(ev.outputs(who, where), ev.y(where))
            seen = lira_errors(own, crowd.margins(where), crowd.inside(where), self.shared)
            values: Floats = seen[by_id(ev, where)].numpy()
            return values

        return signal
