"""CLIP's text encoder from embedded tokens, which its own forward pass does not offer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def embedding_of(encoder: nn.Module) -> Tensor:
    """Embeddings of all tokens, with shape (V, D).

    Args:
        encoder: A transformers CLIPTextModel, with or without projection.
    """
    weight: Tensor = _inner(encoder).embeddings.token_embedding.weight
    return weight


def encode_embedded(encoder: nn.Module, embedded: Tensor) -> Tensor:
    """Last hidden states (B, L, D) of prompts given as embedded tokens (B, L, D); equal to those of their ids."""
    from transformers.masking_utils import create_causal_mask

    inner = _inner(encoder)
    hidden = inner.embeddings(inputs_embeds=embedded)
    mask = create_causal_mask(
        config=inner.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    out = inner.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True)
    states: Tensor = inner.final_layer_norm(out.last_hidden_state)
    return states


def ends(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Position of each prompt's first end-of-text token, with shape (B,), for ids of shape (B, L)."""
    config: Any = encoder.config
    end = config.eos_token_id
    if end == 2:  # what old configurations say; CLIP takes the highest id for the end then, and so do we
        end = ids.amax(1, keepdim=True)
    inside: Tensor = (ids == end).cumsum(1) == 0
    return inside.sum(1)


def _inner(encoder: nn.Module) -> Any:
    """The transformer itself: CLIPTextModelWithProjection holds it under a name, CLIPTextModel is it."""
    return getattr(encoder, "text_model", encoder)
