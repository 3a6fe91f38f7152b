"""A metric of your own: use it with `unlearn run salun --plugin my_metric.py --metrics accuracy,confidence`."""

from unlearn import Metric, metrics
from unlearn.metric import Aim, Evidence, Score


@metrics.register("confidence")
class Confidence(Metric):
    """Mean probability that the model gives to its most likely class, on the forget set.

    References:
        You, 2026, an example.
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score; the oracle's value comes along by itself."""

        def top(who: str) -> float:
            return float(ev.outputs(who, "forget").softmax(1).amax(1).mean())

        return [ev.level("confidence/forget", top, Aim.MATCH, metric="confidence", headline=True)]
