"""H-LR: agreement with the oracle in outputs and in features, as one number."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.membership import signal
from unlearn.ops.representations import cka, hlr, knn_accuracy
from unlearn.ops.sets import scored
from unlearn.ops.stats import over_examples
from unlearn.ops.threshold import auc
from unlearn.registry import metrics
from unlearn.subject import EmbedsClasses


@metrics.register("hlr")
class Hlr(Metric):
    """Harmonic mean of the agreement with the oracle in outputs and in features, 0 to 1.

    AGL = Π (1 − |gap|) over accuracy on each set and the area of the loss attack, AGR = Π (1 − |gap|) over 1 − CKA of
    forget and retain features and the accuracy of five nearest neighbours, and 2 AGL AGR / (AGL + AGR). Reconstructed:
    which measurements the paper takes into each product was not at hand, so compare it only with itself.

    References:
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991 (reconstructed)
    """

    needs: ClassVar[type] = EmbedsClasses
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """One score, with the value between two oracles as its floor."""
        n = len(ev.y("forget"))
        whole = torch.arange(n)

        def between(a: str, b: str, rows: Tensor = whole) -> float:
            return hlr(_outputs(ev, a, b, rows), _features(ev, a, b, rows))

        return [ev.distance(
            "hlr/agreement", between, Aim.UP,
            lambda: over_examples(lambda rows: between("unlearned", "oracle", torch.as_tensor(rows)), n, seed=ev.seed, draws=20),
            metric=self.name, variant="reconstructed", n=n,
        )]  # fmt: skip


def _outputs(ev: Evidence, a: str, b: str, rows: Tensor) -> Tensor:
    """Gaps of accuracies and of the attack; of the forget set some rows alone."""
    gaps = []
    for where in scored(ev):
        right = [ev.correct(who, where).double() for who in (a, b)]
        mine = [r[rows] for r in right] if where == "forget" else right
        gaps.append(mine[0].mean() - mine[1].mean())
    if len(ev.y("audit")):
        areas = [auc(signal(ev, who, "forget", "loss"), signal(ev, who, "audit", "loss")) for who in (a, b)]
        gaps.append(torch.tensor(areas[0] - areas[1], dtype=torch.float64))
    return torch.stack(gaps)


def _features(ev: Evidence, a: str, b: str, rows: Tensor) -> Tensor:
    """What features lack of being alike, and the gap of what neighbours answer."""
    alike = [
        cka(ev.features(a, "forget")[rows], ev.features(b, "forget")[rows]),
        cka(ev.features(a, "retain"), ev.features(b, "retain")),
    ]
    order = ev.index("fit").argsort()
    near = [
        knn_accuracy(
            ev.features(who, "fit")[order], ev.y("fit")[order], ev.features(who, "test"), ev.y("test")
        )
        for who in (a, b)
    ]
    return torch.tensor([1 - alike[0], 1 - alike[1], near[0] - near[1]], dtype=torch.float64)
