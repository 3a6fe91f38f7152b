"""Inception score of completed images, by the scenario's judge."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from unlearn.filling import Completes
from unlearn.gallery import Critics
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.completed import completed, watched
from unlearn.ops.drawn import over_groups
from unlearn.registry import metrics


@metrics.register("completion-is")
class CompletionIs(Metric):
    """How sure a judge is of each completed image, and how much the images of a set differ.

    exp of the mean of KL(p(y | x) ‖ p(y)) over a set's completed images, with the scenario's judge for p: 1 where it sees
    the same in all, the number of classes where it is sure and sees each equally often. Of a set of one class it is low
    whoever completes it. This is no Inception score, which is defined on one Inception network.

    References:
        Salimans et al., 2016, Improved techniques for training GANs, arXiv:1606.03498
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351

    Differences:
        One estimate from all images, not a mean over ten parts of them.
    """

    needs: ClassVar[type] = Completes

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return watched(ev, self.name, lambda critics, where: [self._score(ev, critics, where)])

    def _score(self, ev: Evidence, critics: Critics, where: str) -> Score:
        logits = critics.judge(completed(ev, "unlearned", where))
        return ev.level(
            f"{self.name}/{where}", lambda who: inception_score(critics.judge(completed(ev, who, where))), Aim.MATCH,
            metric=self.name, n=len(logits), note="by the scenario's judge, not Inception",
            **over_groups(lambda at: inception_score(logits[at]), len(logits), ev.seed),
        )  # fmt: skip


def inception_score(logits: Tensor) -> float:
    """The exponential of the mean of KL(p(y | x) ‖ p(y)) over images, for logits of shape (N, K).

    Example:
        >>> import torch
        >>> sure = 100 * torch.eye(3)
        >>> round(inception_score(sure), 5), round(inception_score(sure[:1]), 5)
        (3.0, 1.0)
    """
    log_p = logits.double().log_softmax(1)
    mean = log_p.exp().mean(0)
    kl = (log_p.exp() * (log_p - mean.log())).nan_to_num(0.0).sum(1).mean()
    return math.exp(float(kl)) if logits.isfinite().all() else math.nan
