"""Comparing the outputs of a student with those of its teacher."""

from __future__ import annotations

from torch import Tensor

from unlearn.subject import Classifies, Predicts


def kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(softmax(a) ‖ softmax(b)) of each row, in nats.

    Args:
        a: Logits of the teacher, with shape (B, C).
        b: Logits of the student, with shape (B, C).

    Returns:
        Divergences, with shape (B,).

    Example:
        >>> import math, torch
        >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
        >>> math.isclose(kl(p.log(), q.log()).item(), 0.5 * math.log(4 / 3), rel_tol=1e-5)
        True
    """
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def divergence(subject: Predicts, teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """How far a student's outputs are from its teacher's, for each example.

    For a classifier KL(softmax(z_t / T) ‖ softmax(z_s / T)). Other outputs are taken for the means of
    Gaussians of standard deviation T, of which the KL is ‖z_t - z_s‖² / (2 T²).

    Args:
        subject: Tells which of the two it is.
        teacher: Outputs z_t, with shape (B, K).
        student: Outputs z_s, with shape (B, K).
        temperature: T.

    Returns:
        Divergences, with shape (B,).
    """
    a, b = teacher / temperature, student / temperature
    return kl(a, b) if isinstance(subject, Classifies) else (a - b).flatten(1).square().sum(1) / 2


def without_classes(logits: Tensor, gone: Tensor) -> Tensor:
    """Logits in which removed classes are as unlikely as the least likely entry of the batch.

    Args:
        logits: With shape (B, C).
        gone: Removed classes, as a mask of shape (C,).

    Example:
        >>> import torch
        >>> without_classes(torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([True, False, False]))
        tensor([[1., 1., 2.]])
    """
    return logits.masked_fill(gone, logits.min())
