"""Kernel distance of drawings in the features of named networks."""

from __future__ import annotations

import functools
from typing import ClassVar

from torch import Tensor

from unlearn.metric import Evidence, Metric, Score
from unlearn.ops.drawn import between_sets
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("kernel-distance")
class KernelDistance(Metric):
    """How far the drawings moved as a set, by a polynomial kernel on a named network's features.

    For each network of the scenario, the squared maximum mean discrepancy of two sets of drawings under

        k(x, y) = (x·y / D + 1)³,

    which is unbiased for few drawings too, and so can be below 0: `others`, from the original's drawings of the
    prompts without the concept, which is damage, and `oracle`, from the oracle's drawings of all prompts. This is
    no KID: that is defined on the features of one Inception network.

    References:
        Gretton et al., 2012, A kernel two-sample test, JMLR 13
        Bińkowski et al., 2018, Demystifying MMD GANs, arXiv:1801.01401 (KID)

    Differences from the authors' released code:
        All models draw from the same noise. The two drawings of one prompt from one noise are not compared with
        each other, or the estimate would be biased downwards. One estimate from all drawings, not a mean over
        random subsets.
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Two scores for each network."""
        return between_sets(ev, self.name, functools.partial(mmd, paired=True), lambda _n, _width: "not KID")


def mmd(a: Tensor, b: Tensor, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (x·y / D + 1)³.

    Args:
        a: Features, with shape (N, D), N at least 2.
        b: Features, with shape (M, D), M at least 2.
        paired: Whether row i of one set belongs to row i of the other, and is not independent of it.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
        >>> mmd(a, b), mmd(a, b, paired=True), mmd(a, a, paired=True)
        (1.1875, 2.375, 0.0)
    """
    a, b = a.double(), b.double()
    across = _kernel(a, b)
    mean = _off_diagonal(across) if paired else across.mean()
    return float(_off_diagonal(_kernel(a, a)) + _off_diagonal(_kernel(b, b)) - 2 * mean)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _off_diagonal(k: Tensor) -> Tensor:
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
