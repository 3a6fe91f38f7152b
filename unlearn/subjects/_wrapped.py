"""A pipeline whose drawings go through its subject, for what acts beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor

from unlearn.data import Batch
from unlearn.errors import BadValue, Mismatch
from unlearn.ops.latents import some
from unlearn.ops.verbs import like
from unlearn.subjects._pipelines import Loaded

KINDS = ("pil", "np", "pt")


class Wrapped:
    """A diffusers pipeline that draws with guides or adapters; in everything else it is the pipeline.

    Images are drawn by the subject's sampler, DDIM, whatever scheduler the pipeline has. The pipeline itself, which
    `pipeline` holds, draws as before.

    Args:
        pipeline: The pipeline, whose modules the subject holds.
        loaded: The pipeline as a subject.
        subject: The same subject with what acts beside its weights.
    """

    def __init__(self, pipeline: Any, loaded: Loaded, subject: Any) -> None:
        self.pipeline, self.loaded, self.subject = pipeline, loaded, subject
        self._follow()

    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        **others: Any,
    ) -> Any:
        """Images of prompts.

        Args:
            prompt: One prompt or several.
            num_inference_steps: Steps of a trajectory; the subject's when not given.
            guidance_scale: Scale of guidance; the subject's when not given.
            num_images_per_prompt: Images of each prompt, which come one after the other.
            generator: Source of the noise, or one for each image; torch's own when not given.
            output_type: `pil`, or `np` (N, H, W, 3) and `pt` (N, 3, H, W) between 0 and 1.
            others: Nothing else is read.

        Returns:
            diffusers' ImagePipelineOutput, whose `images` they are.

        Raises:
            BadValue: If something else is asked for, or there are not as many generators as images.
        """
        from diffusers import ImagePipelineOutput

        if others or output_type not in KINDS:
            what = f"output_type={output_type!r}" if output_type not in KINDS else ", ".join(others)
            raise BadValue(
                f"a pipeline with guides or adapters does not take {what}; give prompt, num_inference_steps, guidance_scale, num_images_per_prompt, generator, and output_type {', '.join(KINDS)}"
            )
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        ids = self.loaded.ids(texts).repeat_interleave(num_images_per_prompt, 0)
        subject = replace(
            self.subject,
            steps=num_inference_steps or self.subject.steps,
            guidance=self.subject.guidance if guidance_scale is None else guidance_scale,
        )
        images = _drawn(subject, ids.to(like(subject.module).device), generator)
        return ImagePipelineOutput(images=_as(images, output_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def to(self, *args: Any, **kwargs: Any) -> Wrapped:
        """Moves the pipeline and what acts beside it, as the pipeline's `to` does."""
        self.pipeline.to(*args, **kwargs)
        self._follow()
        return self

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a folder would hold the pipeline as it was.

        Raises:
            Mismatch: Always.
        """
        raise Mismatch(
            "what erases the concept acts beside this pipeline's weights, and a folder would leave it out; keep it with `unlearn erase --out FILE.safetensors`"
        )

    push_to_hub = save_pretrained

    def _follow(self) -> None:
        """Moves what acts beside the weights to where they are, in their type."""
        own = self.loaded.subject.module
        for name, part in self.subject.module.named_children():
            if name not in own:
                part.to(like(self.subject.denoiser))


def _drawn(subject: Any, ids: Tensor, generator: Generator | Sequence[Generator] | None) -> Tensor:
    """Images (N, 3, H, W) of prompts (N, L)."""
    n = len(ids)
    if generator is None or isinstance(generator, Generator):
        noise = subject.noise(n, generator or _fresh(ids.device))
    elif len(generator) == n:
        noise = torch.cat([subject.noise(1, g) for g in generator])
    else:
        raise BadValue(f"{len(generator)} generators are given for {n} images; give one, or one for each")
    batch = Batch(ids[:, :0], ids, torch.arange(n, device=ids.device))
    with torch.no_grad():
        made = [subject.draw_from(subject.encode(p), noise[p.index]) for p in some(batch, subject.shape)]
    return torch.cat(made)


def _fresh(device: torch.device) -> Generator:
    """A generator seeded by torch's own."""
    return Generator(device).manual_seed(int(torch.randint(2**62, ())))


def _as(images: Tensor, kind: str) -> Any:
    """Images (N, 3, H, W) between 0 and 1 as diffusers gives them."""
    from diffusers.image_processor import VaeImageProcessor

    if kind == "pt":
        return images
    found = VaeImageProcessor.pt_to_numpy(images)
    return found if kind == "np" else VaeImageProcessor.numpy_to_pil(found)
