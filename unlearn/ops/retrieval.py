"""Whether what belongs together is found among the best."""

from __future__ import annotations

from torch import Tensor


def among_best(scores: Tensor, right: Tensor, k: int) -> Tensor:
    """Whether one of the k candidates with the largest scores is right, for each query, with shape (Q,).

    Args:
        scores: Of each candidate, with shape (Q, M).
        right: Which candidates are right, as a mask of shape (Q, M).
        k: How many candidates are looked at; all where there are no more.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.5, 0.1]])
        >>> right = torch.tensor([[False, True, False]])
        >>> among_best(scores, right, 1).item(), among_best(scores, right, 2).item()
        (False, True)
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return right.gather(1, best).any(1)
