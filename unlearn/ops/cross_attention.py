"""Cross-attention of diffusers models with its probabilities in the open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def recorded(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Lets attention layers compute their probabilities explicitly and write them down; as before afterwards.

    Args:
        layers: `Attention` modules of diffusers, such as the `attn2` of a UNet.

    Yields:
        Probabilities (B, heads, queries, keys), one for each layer that ran, in order.
    """
    seen: list[Tensor] = []
    changed: list[Any] = list(layers)
    before = [m.processor for m in changed]
    for m in changed:
        m.set_processor(Recording(seen))
    try:
        yield seen
    finally:
        for m, processor in zip(changed, before, strict=True):
            m.set_processor(processor)


class Recording:
    """A processor of a diffusers `Attention` that keeps the probabilities that it computes.

    Args:
        seen: Where they go.
    """

    def __init__(self, seen: list[Tensor]) -> None:
        self.seen = seen

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """What the layer makes of tokens (B, N, C) that look at text states (B, L, D)."""
        keys, values = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = map(attn.head_to_batch_dim, (attn.to_q(hidden_states), keys, values))
        mask = attn.prepare_attention_mask(attention_mask, keys.shape[1], len(hidden_states))
        probabilities: Tensor = attn.get_attention_scores(query, key, mask)
        self.seen.append(probabilities.unflatten(0, (len(hidden_states), attn.heads)))
        out: Tensor = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        for step in attn.to_out:
            out = step(out)
        return out
