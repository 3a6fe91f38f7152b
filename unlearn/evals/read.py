"""Data that unlearning read."""

from __future__ import annotations

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.registry import metrics
from unlearn.subject import Subject


@metrics.register("read")
class Read(Metric):
    """Examples that the unlearning call read of each set, every pass counted.

    A set that was lent and not read counts 0 for forget and retain, and is left out otherwise. Statistics
    count the retain examples that they were computed from.

    References:
        None; a count.
    """

    needs = Subject

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        counts: dict[str, int] = {"forget": 0, "retain": 0, **ev.facts["read"]} if "read" in ev.facts else {}
        return [
            Score(name=f"read/{name}", metric=self.name, value=count, aim=Aim.DOWN, unit="examples")
            for name, count in counts.items()
        ]
