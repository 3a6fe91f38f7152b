"""Average gap to the oracle."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.membership import signal, svc_outsiders, threshold_accuracy
from unlearn.ops.sets import kept_test
from unlearn.registry import metrics


@metrics.register("avg-gap")
class AvgGap(Metric):
    """Mean distance from the oracle in forget, retain and test accuracy and in a membership attack.

    In percentage points,

        gap = ¼ Σ |θ_u − θ_r|   over UA, RA, TA, MIA.

    It averages trade-offs away, and the attack dominates it: read the four columns as well.

    References:
        Fan et al., 2024, SalUn, arXiv:2310.12508

    Differences from the authors' released code:
        Their attack is a support-vector classifier fitted on retain against test examples, and the share of
        the forget set that it calls unseen: `mia="svc"`. Ours is the balanced accuracy of a threshold on
        the confidence p_y that tells the forget set from like held-out examples.
    """

    mia: Literal["threshold", "svc"] = knob("threshold", "form of the attack on the confidence")

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        rows = {who: self._row(ev, who) for who in ev.subjects} if ev.has_oracle else {}
        return [ev.distance(
            "avg-gap", lambda a, b: avg_gap(rows[a], rows[b]), Aim.DOWN, metric=self.name, unit="points",
            variant="" if self.mia == "threshold" else self.mia, n=len(ev.y("forget")),
            note="of one seed its four columns have intervals, not their mean",
        )]  # fmt: skip

    def _row(self, ev: Evidence, who: str) -> list[float]:
        """UA, RA, TA, MIA in percentage points."""
        fa, ra, ta = (float(ev.correct(who, w).double().mean()) for w in ("forget", "retain", kept_test(ev)))
        return [100 * v for v in (1 - fa, ra, ta, self._mia(ev, who))]

    def _mia(self, ev: Evidence, who: str) -> float:
        if self.mia == "svc":
            members, others, target = (
                signal(ev, who, w, "confidence")[:, None] for w in ("retain", "test", "forget")
            )
            return svc_outsiders(members[: len(others)], others, target)
        forget, fit, audit = (signal(ev, who, w, "confidence") for w in ("forget", "audit_fit", "audit"))
        enough = len(forget) > 1 and len(fit) and len(audit)
        return threshold_accuracy(forget, fit, audit) if enough else float("nan")


def avg_gap(row: list[float], reference: list[float]) -> float:
    """Mean absolute difference of two rows of a table.

    Example:
        >>> round(avg_gap([2.85, 99.62, 93.93, 14.39], [5.24, 100.0, 94.26, 12.88]), 4)
        1.1525
    """
    return float(np.abs(np.subtract(row, reference)).mean())
