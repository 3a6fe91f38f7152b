"""Prompts as token ids: which word names the concept, and words that are put beside it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from unlearn.errors import BadValue, Mismatch


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

    Raises:
        BadValue: If no token of a prompt would be left.

    Example:
        >>> prefixed(torch.tensor([[0, 5, 3, 1, 1]]), 2).tolist()
        [[0, 0, 0, 5, 1]]
    """
    length = ids.shape[1]
    if k > length - 3:
        raise BadValue(
            f"{k} tokens before prompts of {length} leave no room for the prompts; take at most {length - 3}"
        )
    room = ids[:, :1].expand(-1, k + 1)
    return torch.cat([room, ids[:, 1 : length - k - 1], ids[:, -1:]], 1)


def trimmed(ids: Tensor) -> Tensor:
    """Prompts without the padding that all of them share, but for one token of it.

    Args:
        ids: With shape (N, L); a prompt of less than L tokens is padded with what its last one is.

    Example:
        >>> trimmed(torch.tensor([[0, 5, 1, 1, 1, 1], [0, 5, 3, 1, 1, 1]])).tolist()
        [[0, 5, 1, 1], [0, 5, 3, 1]]
    """
    padding = (ids == ids[:, -1:]).flip(1).cumprod(1).sum(1)
    return ids[:, : ids.shape[1] - int(padding.min()) + 1]


def nearest(ids: Tensor, others: Tensor, rng: Generator) -> Tensor:
    """Position of the prompt in `others` that differs from each prompt in the fewest tokens, with shape (N,).

    Args:
        ids: With shape (N, L).
        others: With shape (M, L).
        rng: Chooses among equals.

    Example:
        >>> others = torch.tensor([[0, 7, 8, 1], [0, 7, 4, 1]])
        >>> nearest(torch.tensor([[0, 5, 4, 1]]), others, Generator())
        tensor([1])
    """
    differ = (ids[:, None] != others).sum(2)
    chance = torch.rand(differ.shape, generator=rng, device=rng.device).to(differ.device)
    return (differ + chance).argmin(1)


def spaced(ids: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Prompts with room for a token before the first of their tokens and after each `every` of them.

    Args:
        ids: With shape (N, L); the first token begins, the last ends or pads.
        every: Tokens of the prompt between two rooms.

    Returns:
        The prompts (N, L), cut off before the last token where they no longer fit, and whether there is room, (N, L);
        what stands there has no meaning.

    Example:
        >>> ids, room = spaced(torch.tensor([[0, 5, 6, 7, 1, 1, 1, 1]]), 2)
        >>> ids.masked_fill(room, -1).tolist()
        [[0, -1, 5, 6, -1, 7, 1, 1]]
    """
    length = (ids != ids[:, -1:]).sum(1, keepdim=True) - 1
    place = torch.arange(ids.shape[1] - 2, device=ids.device)
    before = place - (place + every) // (every + 1)
    room = (place % (every + 1) == 0) & (before <= length)
    ends = torch.zeros_like(ids[:, :1], dtype=torch.bool)
    spread = torch.cat([ids[:, :1], ids[:, 1 + before], ids[:, -1:]], 1)
    return spread, torch.cat([ends, room, ends], 1)
