"""Which tokens of a concept's prompts are its name."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.data import Handle
from unlearn.errors import BadData


def ids_of(prompts: Handle) -> Tensor:
    """Token ids of all prompts of a set, with shape (P, L).

    Raises:
        BadData: If there is none.
    """
    if not len(prompts):
        raise BadData("no prompt names the concept; give at least one")
    return torch.cat([batch.y for batch in prompts.batches(64)])


def names(ids: Tensor, empty: Tensor) -> list[Tensor]:
    """Ids of the tokens that name the concept, each once: those that all prompts share, or else all of each prompt.

    So the templates around a name do not count, unless there is a single prompt or the prompts are several names.

    Args:
        ids: Prompts of the concept, with shape (P, L).
        empty: The empty prompt, with shape (L,), whose tokens never count.

    Returns:
        One name, or one for each prompt, each with shape (K,).

    Raises:
        BadData: If a prompt is empty.

    Example:
        >>> [n.tolist() for n in names(torch.tensor([[0, 3, 7, 1], [0, 4, 7, 1]]), torch.tensor([0, 1, 1, 1]))]
        [[7]]
        >>> [n.tolist() for n in names(torch.tensor([[0, 3, 1], [0, 4, 1]]), torch.tensor([0, 1, 1]))]
        [[3], [4]]
    """
    blank = set(empty.tolist())
    said = [set(row) - blank for row in ids.tolist()]
    if not all(said):
        raise BadData("a prompt that should name the concept is empty; give words that name it")
    shared = set.intersection(*said)
    return [torch.tensor(sorted(n), device=ids.device) for n in ([shared] if shared else said)]
