"""CLIP's text encoder: what diffusion models read of it, from tokens and from embedded tokens.

Its own forward pass takes no embedded tokens, and leaves hooks behind when it is asked for inner states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Reading:
    """What an encoder makes of prompts.

    Attributes:
        last: States behind the last layer and its norm, with shape (B, L, D).
        before: States that enter the last layer, with shape (B, L, D).
        pooled: The last state at each prompt's first end of text, projected where the encoder projects, with
            shape (B, P).
    """

    last: Tensor
    before: Tensor
    pooled: Tensor


def read(encoder: nn.Module, ids: Tensor) -> Reading:
    """Reads prompts.

    Args:
        encoder: A transformers CLIPTextModel, with or without projection.
        ids: The tokens, with shape (B, L).
    """
    return read_embedded(encoder, _inner(encoder).embeddings.token_embedding(ids), ids)


def read_embedded(encoder: nn.Module, embedded: Tensor, ids: Tensor) -> Reading:
    """Reads prompts given as embedded tokens.

    Args:
        encoder: As in `read`.
        embedded: What takes the place of the tokens' own embeddings, with shape (B, L, D).
        ids: The tokens, with shape (B, L); they say where a prompt ends.
    """
    last, before = _layers(encoder, embedded)
    pooled = last[torch.arange(len(last), device=last.device), ends(encoder, ids)]
    project: nn.Module | None = getattr(encoder, "text_projection", None)
    return Reading(last, before, pooled if project is None else project(pooled))


def encode_embedded(encoder: nn.Module, embedded: Tensor) -> Tensor:
    """Last hidden states (B, L, D) of prompts given as embedded tokens (B, L, D)."""
    return _layers(encoder, embedded)[0]


def embedding_of(encoder: nn.Module) -> Tensor:
    """Embeddings of all tokens, with shape (V, D)."""
    weight: Tensor = _inner(encoder).embeddings.token_embedding.weight
    return weight


def ends(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Position of each prompt's first end-of-text token, with shape (B,), for ids of shape (B, L)."""
    config: Any = encoder.config
    end = config.eos_token_id
    if end == 2:  # what old configurations say; CLIP takes the highest id for the end then, and so do we
        end = ids.amax(1, keepdim=True)
    inside: Tensor = (ids == end).cumsum(1) == 0
    return inside.sum(1)


def _layers(encoder: nn.Module, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """States behind the last layer and its norm, and those that enter the last layer."""
    from transformers.masking_utils import create_causal_mask

    inner = _inner(encoder)
    hidden: Tensor = inner.embeddings(inputs_embeds=embedded)
    before = hidden
    mask = create_causal_mask(
        config=inner.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    for layer in inner.encoder.layers:
        before, hidden = hidden, layer(hidden, mask, is_causal=True)
    return inner.final_layer_norm(hidden), before


def _inner(encoder: nn.Module) -> Any:
    """The transformer itself: CLIPTextModelWithProjection holds it under a name, CLIPTextModel is it."""
    return getattr(encoder, "text_model", encoder)
