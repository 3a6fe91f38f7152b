"""Time that unlearning took."""

from __future__ import annotations

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.registry import metrics
from unlearn.subject import Subject


@metrics.register("run-time")
class RunTime(Metric):
    """Seconds of the unlearning call, and their share of the time that retraining takes.

    Statistics that were computed for the call are included, and so is the training of models that the method was lent,
    which other requests may share; loading data and measuring are not.

    References:
        Fan et al., 2024, arXiv:2310.12508 (RTE, in minutes there)
    """

    needs = Subject

    def measure(self, ev: Evidence) -> list[Score]:
        """Seconds and share."""
        seconds, oracle = ev.facts.get("seconds"), ev.facts.get("oracle_seconds")
        lent = ev.facts.get("pool_seconds")
        seconds = seconds if lent is None or seconds is None else seconds + lent
        ratio = seconds / oracle if seconds is not None and oracle else None
        return [
            Score(name="run-time/seconds", metric=self.name, value=seconds, aim=Aim.DOWN, unit="s"),
            Score(name="run-time/ratio", metric=self.name, value=ratio, aim=Aim.DOWN,
                  note="" if ratio is not None else "no training time of an oracle is known"),
        ]  # fmt: skip
