"""Which tokens of a concept's prompts are its name."""

from __future__ import annotations

from collections.abc import Sequence

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


def concepts_of(prompts: Handle) -> list[Tensor]:
    """Token ids of the prompts of each concept that is erased at once with others, each with shape (P, L).

    Of a set of one concept that is one tensor. In a set of several, x holds the number of each prompt's, (P, 1).

    Raises:
        BadData: If there is no prompt.
    """
    ids = ids_of(prompts)
    x = torch.cat([batch.x for batch in prompts.batches(64)])
    if x.shape[1:] != (1,):
        return [ids]
    return [ids[x[:, 0] == k] for k in x.unique()]


def names(concepts: Sequence[Tensor], empty: Tensor) -> list[Tensor]:
    """Ids of the tokens that name concepts, each once: those that all of its prompts share, or all of each prompt.

    So the templates around a name do not count, unless there is a single prompt or the prompts are several names.

    Args:
        concepts: Prompts of each concept, with shape (P, L).
        empty: The empty prompt, with shape (L,), whose tokens never count.

    Returns:
        For each concept one name, or one for each prompt, each with shape (K,).

    Raises:
        BadData: If a prompt is empty.

    Example:
        >>> one, two = torch.tensor([[0, 3, 7, 1], [0, 4, 7, 1]]), torch.tensor([[0, 3, 1, 1], [0, 4, 1, 1]])
        >>> [n.tolist() for n in names([one, two], torch.tensor([0, 1, 1, 1]))]
        [[7], [3], [4]]
    """
    return [name for ids in concepts for name in _names(ids, empty)]


def _names(ids: Tensor, empty: Tensor) -> list[Tensor]:
    blank = set(empty.tolist())
    said = [set(row) - blank for row in ids.tolist()]
    if not all(said):
        raise BadData("a prompt that should name the concept is empty; give words that name it")
    shared = set.intersection(*said)
    return [torch.tensor(sorted(n), device=ids.device) for n in ([shared] if shared else said)]
