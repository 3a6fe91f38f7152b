"""Wasserstein distance of the predicted values from the oracle's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.stats import over_examples
from unlearn.ops.values import predictions, unit
from unlearn.registry import metrics
from unlearn.subject import Regresses


@metrics.register("wasserstein")
class Wasserstein(Metric):
    """How far the predicted values must be moved, as a whole, to be distributed as the oracle's.

    W₁ of the two distributions of predictions on the forget set, and on held-out examples of what is kept: ∫ |F_u − F_r|,
    in the unit of the targets; of several values the mean. `prediction-gap` compares example by example.

    References:
        Tarun et al., 2023, Deep regression unlearning, arXiv:2210.08196
    """

    needs: ClassVar[type] = Regresses
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return [self._score(ev, where) for where in ("forget", kept_test(ev))]

    def _score(self, ev: Evidence, where: str) -> Score:
        def ends() -> Ends:
            u, r = (predictions(ev, who, where) for who in ("unlearned", "oracle"))
            return over_examples(lambda i: w1(u[i], r[i]), len(u), seed=ev.seed, draws=self.draws)

        return ev.distance(
            f"wasserstein/{where}", lambda a, b: w1(predictions(ev, a, where), predictions(ev, b, where)), Aim.DOWN,
            ends, metric=self.name, unit=unit(ev), n=len(ev.y(where)), headline=where == "forget",
        )  # fmt: skip


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of two samples, with shapes (N, K) and (M, K), in the mean over K.

    Example:
        >>> import torch
        >>> w1(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[5.0], [6.0], [8.0]]))
        5.0
    """
    from scipy.stats import wasserstein_distance

    if not (a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    columns = zip(a.T.numpy(), b.T.numpy(), strict=True)
    apart = [float(wasserstein_distance(x, y)) for x, y in columns]
    return sum(apart) / len(apart)
