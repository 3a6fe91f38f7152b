"""Collapse of the retained knowledge."""

from __future__ import annotations

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.registry import metrics


@metrics.register("collapse")
class Collapse(Metric):
    """Whether the model was destroyed: 1 where retain accuracy fell far below the oracle's, else 0.

    1 where RA(θ) < share · RA(θ_r), with the original in the oracle's place where there is none. Means over
    seeds or classes are the rate of collapse, which a mean accuracy hides.

    References:
        None; a count.
    """

    share: float = knob(0.9, "share of the reference's retain accuracy that must be left", gt=0, le=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        n = len(ev.y("retain"))
        ra = {who: float(ev.correct(who, "retain").double().mean()) for who in ("unlearned", _reference(ev))}
        return [Score(
            name="collapse", metric=self.name, aim=Aim.DOWN, n=n, original=0.0 if not ev.has_oracle else None,
            value=float(collapsed(ra["unlearned"], ra[_reference(ev)], self.share)),
            note=f"retain accuracy {ra['unlearned']:.1%}, of the {_reference(ev)} {ra[_reference(ev)]:.1%}",
        )]  # fmt: skip


def collapsed(accuracy: float, reference: float, share: float) -> bool:
    """Whether less than `share` of the reference's accuracy is left.

    Example:
        >>> collapsed(0.89, 0.99, 0.9), collapsed(0.90, 0.99, 0.9)
        (True, False)
    """
    return accuracy < share * reference


def _reference(ev: Evidence) -> str:
    return "oracle" if ev.has_oracle else "original"
