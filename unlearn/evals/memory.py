"""Memory that unlearning took."""

from __future__ import annotations

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.registry import metrics
from unlearn.subject import Subject


@metrics.register("memory")
class Memory(Metric):
    """Peak memory of the unlearning call above what was in use before, in bytes.

    References:
        None; a measurement of the process.
    """

    needs = Subject

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        peak = ev.facts.get("peak_bytes")
        return [Score(name="memory/peak", metric=self.name, value=peak, aim=Aim.DOWN, unit="bytes")]
