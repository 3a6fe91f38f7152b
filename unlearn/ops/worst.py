"""The worst-case forget set: the examples that an unlearning, chosen against them, removes least."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearn.data import Resident, Stream
from unlearn.runtime import Run
from unlearn.subject import Classifies, mode

ROUNDS = 10  # of unlearning with the weights of the moment and moving the weights
EPOCHS = 2  # passes of an unlearning over the training set
LR = 2e-4  # step of each weight of the network, the same for all: signs of gradients alone count
PULL = 1.0  # penalty on squared weights of examples, which makes the choice unique
MOVE = 0.5  # step of the weights of examples


def worst(subject: Classifies, handle: Resident | Stream, n: int, run: Run) -> Tensor:
    """Weight of each example in the forget set of n that survives unlearning best.

    Two problems in turn. Below, unlearning with weights w: from the original, signed gradient descent on
    Σ w_i ℓ(x_i, a random label) + (1 − w_i) ℓ(x_i, y_i). Above, a projected gradient step that lowers the loss that is
    left on what was to be forgotten, Σ w_i ℓ(x_i, y_i) + PULL / 2 Σ w_i², under 0 ≤ w_i ≤ 1 and Σ w_i = n; signs do not
    change with w, so the lower solution is a constant to it.

    Args:
        subject: The original; it stays as it is.
        handle: The training set, of N examples.
        n: Size of the forget set.
        run: Randomness and progress.

    Returns:
        Weights with shape (N,), float64, in the order of the handle.

    References:
        Fan et al., 2024, Challenging forgets: unveiling the worst-case forget sets, arXiv:2403.07362 (rounds, steps and
        step sizes are ours)
    """
    wrong = torch.randint(1, subject.classes, (len(handle),), generator=run.rng, device=run.device)
    w = torch.full((len(handle),), n / len(handle), dtype=torch.float64)
    for _ in run.track(range(ROUNDS), "choose"):
        left = _left(subject, handle, w, wrong, run)
        w = projected(w - MOVE * (left + PULL * w), n)
    return w


def projected(v: Tensor, n: int) -> Tensor:
    """The nearest point of {0 ≤ w ≤ 1, Σ w = n} to v, both with shape (N,), float64; N at least n.

    It is v less a constant, cut off at 0 and 1; the constant is found by bisection.

    Example:
        >>> [round(w, 6) for w in projected(torch.tensor([3.0, 0.6, 0.4, -1.0], dtype=torch.float64), 2).tolist()]
        [1.0, 0.6, 0.4, 0.0]
    """
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        if (v - middle).clamp(0, 1).sum() > n:
            low = middle
        else:
            high = middle
    return (v - (low + high) / 2).clamp(0, 1)


def _left(subject: Classifies, handle: Resident | Stream, w: Tensor, wrong: Tensor, run: Run) -> Tensor:
    """Loss of each example, with shape (N,), after unlearning with weights w; `wrong` shifts labels to random ones."""
    clone, weight = subject.clone(), w.float().to(run.device)
    place = torch.zeros(int(handle.rows.max()) + 1, dtype=torch.long, device=run.device)
    place[handle.rows.to(run.device)] = torch.arange(len(handle), device=run.device)
    params = [p for p in clone.module.parameters() if p.requires_grad]
    found = torch.zeros(len(handle), device=run.device)
    with mode(clone.module, train=False):  # batch norm keeps its statistics
        for batch in (b for _ in range(EPOCHS) for b in handle.batches(128, run.rng)):
            at = place[batch.index]
            logits, y = clone.outputs(batch), batch.y
            bad = cross_entropy(logits, (y + wrong[at]) % subject.classes, reduction="none")
            loss = weight[at] * bad + (1 - weight[at]) * cross_entropy(logits, y, reduction="none")
            for p, g in zip(params, torch.autograd.grad(loss.mean(), params), strict=True):
                p.data.sub_(g.sign(), alpha=LR)
        with torch.no_grad():
            for batch in handle.batches(512):
                found[place[batch.index]] = cross_entropy(clone.outputs(batch), batch.y, reduction="none")
    return found.double().cpu()
