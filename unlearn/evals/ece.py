"""Expected calibration error (ECE)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.signals import log_probabilities
from unlearn.ops.stats import Rows, over_examples
from unlearn.registry import metrics


@metrics.register("ece")
class Ece(Metric):
    """How far confidence and accuracy differ, on forget and test data.

    Examples are sorted into bins B of equal width by the largest probability, and

        ECE = Σ_B |B| / N · |accuracy(B) − mean confidence(B)|.

    References:
        Guo et al., 2017, On calibration of modern neural networks, arXiv:1706.04599
    """

    bins: int = knob(15, "bins of equal width", ge=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        test = kept_test(ev)
        aims = {"forget": Aim.MATCH, test: Aim.DOWN}
        return [self._score(ev, where, aim) for where, aim in aims.items() if len(ev.y(where))]

    def _score(self, ev: Evidence, where: str, aim: Aim) -> Score:
        n = len(ev.y(where))

        @functools.cache
        def sure(who: str) -> Tensor:
            return log_probabilities(ev.outputs(who, where)).exp().amax(1)

        def of(who: str, rows: Rows = ...) -> Tensor:
            return ece(sure(who)[rows], ev.correct(who, where)[rows], self.bins)

        ends = over_examples(lambda rows: of("unlearned", rows), n, seed=ev.seed)
        return ev.level(f"ece/{where}", of, aim, metric=self.name, n=n, **ends)


def ece(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    """Expected calibration error, a scalar in float64.

    Args:
        confidence: Probability of the predicted class, with shape (N,).
        correct: Whether it is the target, with shape (N,).
        bins: Bins of equal width; the upper edge belongs to a bin.

    Example:
        >>> sure, right = torch.tensor([0.95, 0.91, 0.83, 0.62, 0.55]), torch.tensor([1, 1, 0, 1, 0])
        >>> round(float(ece(sure, right, 10)), 6)
        0.38
    """
    place = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins).double().index_add(0, place, correct.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)
