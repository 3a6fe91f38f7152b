"""What a classifier's logits say of each example: loss, confidence, entropies. All in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of the softmax in float64, with the shape of `logits` (N, C)."""
    return logits.double().log_softmax(1)


def losses(log_p: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy −log p_y of each example in nats, with shape (N,).

    Args:
        log_p: Log-probabilities, with shape (N, C).
        y: Class ids, with shape (N,).
    """
    return -log_p.gather(1, y[:, None]).squeeze(1)


def entropies(log_p: Tensor) -> Tensor:
    """Entropy −Σ p log p of each prediction in nats, with shape (N,).

    Args:
        log_p: Log-probabilities, with shape (N, C).
    """
    p = log_p.exp()
    return -torch.where(p == 0, 0, p * log_p).sum(1)


def modified_entropies(log_p: Tensor, y: Tensor) -> Tensor:
    """Modified entropy −(1 − p_y) log p_y − Σ_{j≠y} p_j log(1 − p_j) of each example, with shape (N,).

    Unlike the entropy it is large where the model is sure of a wrong class.

    Args:
        log_p: Log-probabilities, with shape (N, C).
        y: Class ids, with shape (N,).

    References:
        Song and Mittal, 2021, Systematic evaluation of privacy risks of machine learning models,
        arXiv:2003.10595
    """
    p, log_q = log_p.exp(), log_complements(log_p)
    terms = torch.where(p == 0, 0, p * log_q)
    own = log_q.exp() * log_p
    return -terms.scatter(1, y[:, None], own.gather(1, y[:, None])).sum(1)


def modified_entropies_salun(log_p: Tensor, y: Tensor) -> Tensor:
    """The modified entropy as SalUn's released code computes it, with shape (N,); kept for parity.

    Every column that is the label of any example, not the example's own entry, becomes −(1 − p) log p, and
    the others −p log p where −p log(1 − p) is meant. A value depends on which labels the batch holds.

    Args:
        log_p: Log-probabilities, with shape (N, C).
        y: Class ids, with shape (N,).
    """
    labelled = torch.zeros(log_p.shape[1], dtype=torch.bool, device=log_p.device)
    labelled[y] = True
    p = log_p.exp()
    return -(torch.where(labelled, 1 - p, p) * log_p).sum(1)


def log_complements(log_p: Tensor) -> Tensor:
    """Logarithm of 1 − p, exact also where p rounds to 1, with the shape of `log_p` (N, C)."""
    top = log_p.argmax(1, keepdim=True)
    rest = log_p.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return torch.log1p(-log_p.exp()).scatter(1, top, rest)
