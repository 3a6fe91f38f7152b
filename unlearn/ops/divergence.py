"""Distances between the predictions of two models on the same examples. All in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unlearn.ops.signals import log_probabilities


def js(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2, of each example in nats.

    Args:
        a: Logits of one model, with shape (N, C).
        b: Logits of the other, with shape (N, C).

    Returns:
        Values between 0 and log 2, with shape (N,).

    Example:
        >>> certain, other = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> round(float(js(certain, other)), 4)
        0.6931
    """
    log_p, log_q = log_probabilities(a), log_probabilities(b)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)).div(2).clamp_min(0)


def js_released(a: Tensor, b: Tensor) -> Tensor:
    """The divergence as Bad Teacher's released code computes it, a scalar; kept for parity.

    It is ½ (KL(m‖p) + KL(m‖q)) and divided by the number of classes C besides, because a mean is taken over
    all entries; a probability that underflows makes it infinite.

    Args:
        a: Logits of one model, with shape (N, C).
        b: Logits of the other, with shape (N, C).
    """
    p, q = log_probabilities(a).exp(), log_probabilities(b).exp()
    m = (p + q) / 2
    terms: Tensor = m * (2 * m.log() - p.log() - q.log())
    return terms.mean() / 2


def _kl(log_p: Tensor, log_m: Tensor) -> Tensor:
    """KL(p‖m) of each row (N,); a class that p rules out adds nothing."""
    p = log_p.exp()
    terms: Tensor = torch.where(p == 0, 0, p * (log_p - log_m))
    return terms.sum(1)


def output_distance(a: Tensor, b: Tensor, norm: int) -> Tensor:
    """Norm of the difference of the predicted probabilities of each example, with shape (N,).

    Args:
        a: Logits of one model, with shape (N, C).
        b: Logits of the other, with shape (N, C).
        norm: 1 or 2.
    """
    apart = log_probabilities(a).exp() - log_probabilities(b).exp()
    found: Tensor = torch.linalg.vector_norm(apart, norm, dim=1)
    return found
