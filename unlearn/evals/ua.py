"""Unlearning accuracy (UA)."""

from __future__ import annotations

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics


@metrics.register("ua")
class Ua(Metric):
    """Share of the forget set that is classified wrong: one minus the forget accuracy.

    A model that never saw random forget examples still classifies most of them right; more errors than the
    oracle makes are damage, not forgetting.

    References:
        Jia et al., 2023, Model sparsity can simplify machine unlearning, arXiv:2304.04934
        Fan et al., 2024, SalUn, arXiv:2310.12508
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        wrong = ~ev.correct("unlearned", "forget")
        return [ev.level(
            "ua", lambda who: 1 - ev.correct(who, "forget").double().mean(), Aim.MATCH, metric=self.name,
            n=len(wrong), **ends_of_share(wrong),
        )]  # fmt: skip
