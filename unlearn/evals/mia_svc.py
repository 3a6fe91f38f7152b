"""SalUn's membership attack."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.attacked import gated
from unlearn.ops.membership import signal, svc_outsiders
from unlearn.ops.signals import log_probabilities
from unlearn.registry import metrics


@metrics.register("mia-svc")
class MiaSvc(Metric):
    """Share of the forget set that a support-vector classifier takes for unseen (SalUn).

    The classifier (C = 3, RBF kernel) is fitted on the first |test| retain examples against the test set
    and asked about the forget set. A parity score: it knows no example like the forgotten ones, the test set
    serves twice, and the five features give five answers for one model. `mia` is the attack to read.

    References:
        Jia et al., 2023, Model sparsity can simplify machine unlearning, arXiv:2304.04934
        Fan et al., 2024, SalUn, arXiv:2310.12508

    Differences from the authors' released code:
        `m-entropy` follows its definition; theirs mixes up entries and logarithms and is
        `feature="m-entropy@salun"`.
    """

    basic: ClassVar[bool] = False
    feature: Literal["confidence", "correctness", "entropy", "m-entropy", "m-entropy@salun", "probability"] = knob(
        "confidence", "what the classifier sees of an example; the tables use the confidence"
    )  # fmt: skip

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        return [gated(ev.level(
            "mia-svc", lambda who: self._share(ev, who), Aim.MATCH, metric=self.name, variant=self.feature,
            n=len(ev.y("forget")), note="parity: fitted on retain against test examples",
        ))]  # fmt: skip

    def _share(self, ev: Evidence, who: str) -> float:
        members, others, target = (self._features(ev, who, w) for w in ("retain", "test", "forget"))
        return svc_outsiders(members[: len(others)], others, target)

    def _features(self, ev: Evidence, who: str, where: str) -> NDArray[np.float64]:
        """With shape (N, D)."""
        if self.feature == "probability":
            order = ev.index(where).argsort()
            return log_probabilities(ev.outputs(who, where))[order].exp().numpy()
        return signal(ev, who, where, self.feature)[:, None]
