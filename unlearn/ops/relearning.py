"""Learning a few examples again: gradient descent with momentum on one batch, batch norm frozen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator

from unlearn.data import Batch
from unlearn.subject import HasLoss, mode

OFFSET = 0.01


def descending(subject: HasLoss, batch: Batch, lr: float, seed: int) -> Iterator[float]:
    """Mean loss of a batch, in nats for a classifier, before each of endless steps; trains in place.

    Args:
        subject: A copy of the model.
        batch: Of size B; every step sees all of it, with the same draws.
        lr: Step size; momentum is 0.9.
        seed: For losses that draw.
    """
    params = [p for p in subject.module.parameters() if p.requires_grad]
    velocity = [
        torch.zeros_like(p) for p in params
    ]  # torch.optim would import its compiler for these two lines
    while True:
        with mode(subject.module, train=False):
            loss = subject.loss(batch, Generator(batch.index.device).manual_seed(seed)).mean()
        yield float(loss.detach())
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for p, v, g in zip(params, velocity, grads, strict=True):
                p.sub_(v.mul_(0.9).add_(g), alpha=lr)


def ain(steps: float, reference: float, offset: float = OFFSET) -> float:
    """Anamnesis index: relearning time as a multiple of the oracle's.

    Example:
        >>> round(ain(12, 15), 5)
        0.80013
    """
    return (steps + offset) / (reference + offset)
