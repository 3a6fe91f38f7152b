"""Reconstruction error of completed images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.filling import Completes
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.completed import completing, errors, shown
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics

EXACT = 1e-10
"""Mean squared errors below this share of the range squared count as this, which is 100 dB."""


@metrics.register("completion")
class Completion(Metric):
    """Mean squared error and signal-to-noise ratio of the pixels that a model fills in.

    Of each set, `mse` is the mean over images of the mean squared difference from the true pixels, and `psnr` that of
    10 log₁₀ ((high − low)² / mse) in decibels. Pixels that the model was given are left out. A forgotten image should be
    completed as by a model that never saw it, neither better nor worse.

    References:
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    needs: ClassVar[type] = Completes

    def measure(self, ev: Evidence) -> list[Score]:
        """Two scores for each set."""
        return [score for where in scored(ev) for score in self._scores(ev, where)]

    def _scores(self, ev: Evidence, where: str) -> list[Score]:
        of = completing(ev)
        made = errors(ev, "unlearned", where)
        decibels = psnr(made, of.high - of.low)
        return [
            ev.level(f"{self.name}/mse/{where}", lambda who: errors(ev, who, where).mean(), Aim.MATCH, metric=self.name,
                     n=len(made), headline=where in shown(ev), **ends_of_mean(made)),
            ev.level(f"{self.name}/psnr/{where}", lambda who: psnr(errors(ev, who, where), of.high - of.low).mean(),
                     Aim.MATCH, metric=self.name, n=len(made), unit="dB", **ends_of_mean(decibels)),
        ]  # fmt: skip


def psnr(mse: Tensor, span: float) -> Tensor:
    """Peak signal-to-noise ratio of each image in decibels, with shape (N,).

    Args:
        mse: Mean squared errors, with shape (N,).
        span: Largest less smallest value of a pixel.

    Example:
        >>> import torch
        >>> [round(v, 3) for v in psnr(torch.tensor([0.01, 0.1, 0.0]), 1.0).tolist()]
        [20.0, 10.0, 100.0]
    """
    return -10 * (mse / span**2).clamp_min(EXACT).log10()
