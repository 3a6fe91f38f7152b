"""Prompts as token ids: which word names the concept, and words that are put beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.errors import Mismatch


def word_of(ids: Tensor, others: Tensor) -> Tensor:
    """Position of the concept's word in each prompt, with shape (N,): the last token that only the concept has.

    Args:
        ids: Prompts that name the concept, with shape (N, L).
        others: Prompts that do not, with shape (M, L).

    Raises:
        Mismatch: If no token is in all the former and in none of the latter.

    Example:
        >>> word_of(torch.tensor([[0, 5, 3, 1], [0, 3, 1, 1]]), torch.tensor([[0, 5, 4, 1]])).tolist()
        [2, 1]
    """
    foreign = set(others.flatten().tolist())
    shared = set.intersection(*(set(row) for row in ids.tolist())) - foreign
    if not shared:
        raise Mismatch(
            "the prompts of the concept share no token that the others lack, so nothing names it; choose an attack that puts tokens before the prompt"
        )
    named = torch.isin(ids, torch.tensor(sorted(shared), device=ids.device))
    return ids.shape[1] - 1 - named.flip(1).int().argmax(1)


def prefixed(ids: Tensor, k: int) -> Tensor:
    """Prompts with room for k tokens behind the begin token; what no longer fits is cut off before the last.

    Args:
        ids: With shape (N, L); the first token begins, the last ends or pads.
        k: Tokens to make room for; they are copies of the begin token until something replaces them.

    Example:
        >>> prefixed(torch.tensor([[0, 5, 3, 1, 1]]), 2).tolist()
        [[0, 0, 0, 5, 1]]
    """
    length = ids.shape[1]
    room = ids[:, :1].expand(-1, k + 1)
    return torch.cat([room, ids[:, 1 : length - k - 1], ids[:, -1:]], 1)
