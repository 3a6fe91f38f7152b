"""Causal language models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from unlearn.data import Batch, Handle
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, untrained, whole
from unlearn.registry import subjects
from unlearn.runtime import Run

IGNORED = -100
"""Label of positions that carry no loss: prompt and padding."""


@subjects.register("causal-lm")
@dataclass(slots=True)
class CausalLM:
    """Continues a text; x are right-padded token ids and y their labels, -100 on prompt and padding.

    No attention mask is needed: padding comes last, so no token that counts attends to it.

    Attributes:
        module: A transformers causal language model; maps ids (B, L) to `.logits` (B, L, V).
        refusals: Token ids of answers that say nothing, right-padded with -100, with shape (M, R).
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.
    """

    module: nn.Module
    refusals: Tensor
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position of ids (B, L), with shape (B, L, V)."""
        logits: Tensor = self.module(input_ids=ids, use_cache=False).logits
        return logits

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Negative log-likelihood of each answer in nats, summed over its tokens, with shape (B,)."""
        return self._nll(batch.x, batch.y)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Negative log-likelihood of a refusal in place of each answer, drawn from `refusals`, (B,)."""
        drawn = whole(len(self.refusals), len(batch), rng, batch.x.device)
        return self._nll(*refused(batch.x, batch.y, self.refusals.to(batch.x.device)[drawn]))

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _nll(self, ids: Tensor, labels: Tensor) -> Tensor:
        logits = self.next_logits(ids)[:, :-1].transpose(1, 2)
        return cross_entropy(logits, labels[:, 1:], ignore_index=IGNORED, reduction="none").sum(1)


def refused(ids: Tensor, labels: Tensor, refusals: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces each answer, from its first label to the end, with a refusal.

    The first token is never replaced, since nothing predicts it. Rows without an answer get none.

    Args:
        ids: Token ids, with shape (B, L).
        labels: Labels, -100 where ignored, with shape (B, L).
        refusals: Ids of one refusal for each row, -100 after its end, with shape (B, R).

    Returns:
        Ids and labels, with shape (B, L + R).

    Example:
        >>> x, y = refused(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[-100, -100, 7, 8]]), torch.tensor([[1, 2]]))
        >>> x.tolist(), y.tolist()
        ([[5, 6, 1, 2, 0, 0]], [[-100, -100, 1, 2, -100, -100]])
    """
    (b, length), r = ids.shape, refusals.shape[1]
    answered = labels != IGNORED
    start = answered.int().argmax(1, keepdim=True).clamp_min(1)
    new_ids = torch.cat([ids, ids.new_zeros(b, r)], 1)
    place = torch.arange(length + r, device=ids.device)
    new_ids = torch.where(place < start, new_ids, 0)
    new_labels = torch.full_like(new_ids, IGNORED)
    where = start + torch.arange(r, device=ids.device)
    kept = refusals.masked_fill(~answered.any(1, keepdim=True), IGNORED)
    new_ids.scatter_(1, where, kept.clamp_min(0))
    new_labels.scatter_(1, where, kept)
    return new_ids, new_labels
