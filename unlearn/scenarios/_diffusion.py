"""Diffusion pipelines in diffusers' folder layout as subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unlearn.errors import BadWeights
from unlearn.ops import hub
from unlearn.subjects.text_to_image import TextToImage, components


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline as it was found.

    Attributes:
        subject: The model; its autoencoder is frozen.
        tokenizer: Of its text encoder.
    """

    subject: TextToImage
    tokenizer: Any

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of prompts, with shape (N, L)."""
        return _ids(self.tokenizer, texts)


def load_pipeline(where: str, steps: int = 50, guidance: float = 7.5) -> Loaded:
    """Reads a text-to-image pipeline with a UNet and one CLIP text encoder, in single precision.

    Args:
        where: Folder that `save_pretrained` wrote, or a hub name.
        steps: Sampling steps.
        guidance: Scale of classifier-free guidance in samples.

    Raises:
        BadWeights: If there is none, it cannot be read, or its weights are pickled.
    """
    hub.quiet()
    from diffusers import StableDiffusionPipeline

    try:
        pipe: Any = StableDiffusionPipeline.from_pretrained(
            where, use_safetensors=True, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    except Exception as err:  # diffusers raises whatever its readers raise
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BadWeights(
            f"no text-to-image pipeline at {where!r}: {said}; give a folder written by save_pretrained with safetensors, or a hub name"
        ) from err
    unet, text, vae = (
        m.float().eval().requires_grad_(False) for m in (pipe.unet, pipe.text_encoder, pipe.vae)
    )
    unet.requires_grad_(True)
    empty = _ids(pipe.tokenizer, [""])[0]
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    subject = TextToImage(
        components(unet, text), pipe.scheduler, empty, empty, shape, steps, guidance, vae=vae
    )
    return Loaded(subject, pipe.tokenizer)


def _ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    found: Tensor = tokenizer(
        list(texts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return found
