"""The membership attack of deep regression unlearning."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.attacked import gated
from unlearn.ops.membership import svc_outsiders
from unlearn.ops.values import sizes
from unlearn.registry import metrics
from unlearn.subject import Regresses


@metrics.register("mia-error")
class MiaError(Metric):
    """Share of the forget set whose errors a support-vector classifier takes for training data.

    The classifier (C = 3, RBF kernel) is fitted on the absolute errors of equally many retained and test examples, and asked
    about the forget set. A parity score: it knows no example like the forgotten ones, and takes a range that is hard for
    one that was never seen. `mia` is the attack to read.

    References:
        Tarun et al., 2023, Deep regression unlearning, arXiv:2210.08196
    """

    needs: ClassVar[type] = Regresses
    basic: ClassVar[bool] = False
    most: int = knob(1000, "retained, and test, examples at most: those of the lowest ids", ge=10)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        return [gated(ev.level(
            "mia-error", lambda who: self._share(ev, who), Aim.MATCH, metric=self.name, n=len(ev.y("forget")),
            note="parity: fitted on retain against test examples",
        ))]  # fmt: skip

    def _share(self, ev: Evidence, who: str) -> float:
        members, others, target = (_errors(ev, who, where) for where in ("retain", "test", "forget"))
        n = min(len(members), len(others), self.most)
        return 1 - svc_outsiders(members[:n], others[:n], target)


def _errors(ev: Evidence, who: str, where: str) -> NDArray[np.float64]:
    """Absolute errors by rising id, with shape (N, 1)."""
    found: NDArray[np.float64] = sizes(ev, who, where)[ev.index(where).argsort()].numpy()
    return found[:, None]
