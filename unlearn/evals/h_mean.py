"""Harmonic mean of retained accuracy and dropped accuracy (H-mean)."""

from __future__ import annotations

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import asked
from unlearn.ops.stats import Rows, over_examples
from unlearn.registry import metrics


@metrics.register("h-mean")
class HMean(Metric):
    """Harmonic mean of the accuracy kept on the rest and the accuracy lost on the forgotten.

    With Drop = Acc_f(θ₀) − Acc_f(θ),

        H = 2 Acc_r Drop / (Acc_r + Drop),

    on held-out examples of the kept classes and of those that this request removes, or on the retain and the forget set
    where it removes none; there the oracle's value is the aim. Of requests one after another, θ₀ is what the one before
    left. Compare only at one original.

    References:
        Zhao et al., 2024, Continual forgetting for pre-trained vision models (GS-LoRA), arXiv:2403.11530
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        gone, kept = asked(ev)
        if not (len(ev.y(kept)) and len(ev.y(gone))):
            return []

        sizes = len(ev.y(kept)), len(ev.y(gone))

        def share(who: str, where: str, rows: Rows) -> float:
            return float(ev.correct(who, where)[rows].double().mean())

        def of(who: str, kept_rows: Rows = ..., gone_rows: Rows = ...) -> float:
            drop = share("original", gone, gone_rows) - share(who, gone, gone_rows)
            return h_mean(share(who, kept, kept_rows), drop)

        return [ev.level(
            "h-mean", of, Aim.MATCH if gone == "forget" else Aim.UP, metric=self.name, n=sum(sizes),
            **over_examples(lambda *rows: of("unlearned", *rows), *sizes, seed=ev.seed),
        )]  # fmt: skip


def h_mean(kept: float, drop: float) -> float:
    """Harmonic mean of the accuracy kept and the accuracy dropped; 0 where nothing dropped.

    Example:
        >>> round(h_mean(71.16, 70.88), 4)
        71.0197
    """
    return 2 * kept * drop / (kept + drop) if drop > 0 and kept > 0 else 0.0
