"""Subjects made of diffusers' text-to-image pipelines, whose own modules they hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import BadValue, Mismatch
from unlearn.ops.naming import Naming
from unlearn.patch import weights_hash
from unlearn.subjects._layouts import SD3, Flux
from unlearn.subjects._sdxl import SDXL
from unlearn.subjects.flow_to_image import FlowToImage
from unlearn.subjects.text_to_image import TextToImage

PREDICTED = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline as a subject, and what turns prompts into its `Batch.y`.

    Attributes:
        subject: A `TextToImage` or a `FlowToImage`; all but its denoiser is frozen.
        tokenizers: Of its text encoders.
        lengths: Tokens of a prompt for each.
        frozen: The modules of the pipeline that no clone copies, by name.
    """

    subject: Any
    tokenizers: tuple[Any, ...]
    lengths: tuple[int, ...]
    frozen: Mapping[str, nn.Module]

    @property
    def tokenizer(self) -> Any:
        """That of the first text encoder."""
        return self.tokenizers[0]

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of prompts for all encoders in turn, with shape (N, L)."""
        return _ids(self.tokenizers, self.lengths, texts)

    def check(self, naming: Naming) -> None:
        """Refuses names that leave a method nothing to do.

        Raises:
            BadValue: If the tokenizers read nothing of the concept, or read it as what takes its place.
        """
        said = self.ids([t.replace("{}", naming.concept) for t in naming.templates])
        if torch.equal(said, self.ids([t.replace("{}", "") for t in naming.templates])):
            raise BadValue(
                f"the tokenizer makes nothing of {naming.concept!r}, so no prompt can name it; choose another name"
            )
        sets = naming.sets()
        if torch.equal(*(self.ids(sets[n]) for n in ("concept", "anchor"))):
            raise BadValue(
                f"{naming.concept!r} and its anchor {naming.anchor!r} are the same tokens, so nothing would be erased; choose another anchor, or none for the empty prompt"
            )

    def content(self) -> list[str]:
        """Hashes of what decides its drawings beside its module, and the scheduler's settings."""
        hashes = [weights_hash(self.frozen[name].state_dict()) for name in sorted(self.frozen)]
        return [*hashes, self.subject.scheduler.to_json_string()]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a pipeline is to draw; 0 is what the pipeline itself would do.

    Attributes:
        steps: Sampling steps.
        guidance: Scale of guidance.
        size: Side of an image, in pixels.
    """

    steps: int = 0
    guidance: float = 0.0
    size: int = 0


def subject_of(pipe: Any, how: Drawing | None = None, source: str = "") -> Loaded:
    """A diffusers pipeline as a subject, without a copy of a module.

    Its denoiser is set free and the rest is frozen.

    Args:
        pipe: An instance of one of `LAYOUTS`.
        how: How it draws.
        source: Folder that it came from.

    Raises:
        Mismatch: If the class of the pipeline or its scheduler is none of those that are supported, or it lacks a
            component.
        BadValue: If images cannot have the size.
    """
    make = next((LAYOUTS[c.__name__] for c in type(pipe).__mro__ if c.__name__ in LAYOUTS), None)
    if make is None:
        raise Mismatch(unsupported(type(pipe).__name__))
    return make(_Parts(pipe, how or Drawing(), source))


def unsupported(name: str) -> str:
    """What to say of a pipeline of another class."""
    return f"a {name} is not supported; give a {', '.join(LAYOUTS)}"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all layouts take from a pipeline in the same way."""

    pipe: Any
    how: Drawing
    source: str

    def __getitem__(self, name: str) -> Any:
        found = getattr(self.pipe, name, None)
        if found is None:
            raise Mismatch(
                f"this {type(self.pipe).__name__} has no {name}, without which it reads no prompt; give a whole pipeline"
            )
        return found

    def module(self, *names: str) -> nn.ModuleDict:
        """The components that may change, the denoiser first; the others are frozen."""
        module = nn.ModuleDict({n: self[n].eval() for n in names}).requires_grad_(False)
        module[names[0]].requires_grad_(True)
        return module

    def common(self, channels: int, patch: int = 1, scale: str = "guidance_scale") -> dict[str, Any]:
        """Fields of every subject that say how images are drawn."""
        vae = getattr(self.pipe, "vae", None)
        known = inspect.signature(type(self.pipe).__call__).parameters
        return {
            "scheduler": self.pipe.scheduler,
            "shape": (channels, *self._sides(patch)),
            "steps": self.how.steps or int(known["num_inference_steps"].default),
            "guidance": self.how.guidance or float(known[scale].default),
            "vae": None if vae is None else vae.eval().requires_grad_(False),
            "source": self.source,
        }

    def longest(self) -> int:
        """Tokens of a prompt for T5."""
        found: int = inspect.signature(type(self.pipe).__call__).parameters["max_sequence_length"].default
        return found

    def loaded(
        self, kind: type[Any], names: Sequence[str], lengths: tuple[int, ...], fields: Mapping[str, Any]
    ) -> Loaded:
        """The subject with the tokenizers of these names."""
        tokenizers = tuple(self[n] for n in names)
        empty = _ids(tokenizers, lengths, [""])[0]
        parts = {n: m for n, m in self.pipe.components.items() if isinstance(m, nn.Module)}
        frozen = {n: m for n, m in parts.items() if n not in fields["module"]}
        return Loaded(kind(empty=empty, pseudo=empty, **fields), tokenizers, lengths, frozen)

    def _sides(self, patch: int) -> tuple[int, int]:
        """Height and width of a latent."""
        scale = self.pipe.vae_scale_factor
        if self.how.size:
            if self.how.size % (scale * patch):
                raise BadValue(
                    f"images of {type(self.pipe).__name__} have sides that are multiples of {scale * patch}, got {self.how.size}"
                )
            return (self.how.size // scale,) * 2
        net: Any = getattr(self.pipe, "unet", None)
        side = self.pipe.default_sample_size if net is None else net.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)


def _stable_diffusion(parts: _Parts) -> Loaded:
    _check_noise(parts.pipe.scheduler)
    fields = parts.common(parts["unet"].config.in_channels)
    lengths = (int(parts["tokenizer"].model_max_length),)
    module = parts.module("unet", "text_encoder")
    return parts.loaded(TextToImage, ["tokenizer"], lengths, {"module": module, **fields})


def _stable_diffusion_xl(parts: _Parts) -> Loaded:
    _check_noise(parts.pipe.scheduler)
    fields = parts.common(parts["unet"].config.in_channels)
    first, second = parts["tokenizer"], parts["tokenizer_2"]
    alike = all(getattr(first, n) == getattr(second, n) for n in ("model_max_length", "eos_token_id"))
    if not alike or first.get_vocab() != second.get_vocab():
        raise Mismatch(
            "the two tokenizers of this StableDiffusionXLPipeline split prompts differently, which is not supported; give it two of one vocabulary, as Stable Diffusion XL has"
        )
    own = {
        "module": parts.module("unet", "text_encoder", "text_encoder_2"),
        "padding": int(second.pad_token_id),
        "pixels": tuple(side * parts.pipe.vae_scale_factor for side in fields["shape"][1:]),
        "blank_is_zero": bool(parts.pipe.config.force_zeros_for_empty_prompt),
    }
    return parts.loaded(SDXL, ["tokenizer"], (int(first.model_max_length),), {**own, **fields})


def _stable_diffusion_3(parts: _Parts) -> Loaded:
    config, t5 = parts["transformer"].config, parts.pipe.text_encoder_3
    short, long = int(parts["tokenizer"].model_max_length), parts.longest()
    names, lengths = ["tokenizer", "tokenizer_2"], [short, short]
    if t5 is not None:
        names.append("tokenizer_3")
        lengths.append(long)
    layout = SD3(tuple(lengths), t5, long, config.joint_attention_dim, config.patch_size)
    module = parts.module("transformer", "text_encoder", "text_encoder_2")
    return _flow(parts, names, layout, module, parts.common(config.in_channels, config.patch_size))


def _flux(parts: _Parts) -> Loaded:
    config, own = parts["transformer"].config, parts.pipe.scheduler.config.get("use_flow_sigmas", False)
    lengths = (int(parts["tokenizer"].model_max_length), parts.longest())
    layout = Flux(lengths, parts["text_encoder_2"], config.guidance_embeds, bool(own))
    scale = "guidance_scale" if layout.distilled else "true_cfg_scale"
    fields = parts.common(config.in_channels // 4, layout.patch, scale)
    module = parts.module("transformer", "text_encoder")
    return _flow(parts, ["tokenizer", "tokenizer_2"], layout, module, fields)


LAYOUTS: dict[str, Callable[[_Parts], Loaded]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}
"""How a subject is made of a pipeline, by the name of its class."""


def _flow(
    parts: _Parts,
    names: Sequence[str],
    layout: SD3 | Flux,
    module: nn.ModuleDict,
    fields: Mapping[str, Any],
) -> Loaded:
    from diffusers import FlowMatchEulerDiscreteScheduler

    if not isinstance(scheduler := parts.pipe.scheduler, FlowMatchEulerDiscreteScheduler):
        raise Mismatch(
            f"a {type(scheduler).__name__} is not supported here; give the pipeline a FlowMatchEulerDiscreteScheduler"
        )
    if layout.t5 is not None:
        layout.t5.eval().requires_grad_(False)
    return parts.loaded(FlowToImage, names, layout.lengths, {"module": module, "layout": layout, **fields})


def _check_noise(scheduler: Any) -> None:
    """Refuses a scheduler whose noise is not that of DDPM, by which we sample."""
    kind = scheduler.config.get("prediction_type")
    if kind not in PREDICTED or "beta_start" not in scheduler.config or "sigma_data" in scheduler.config:
        raise Mismatch(
            f"a {type(scheduler).__name__} that predicts {kind!r} is not supported; give the pipeline a scheduler with betas that predicts epsilon or v_prediction, such as DDIMScheduler"
        )


def _ids(tokenizers: Sequence[Any], lengths: Sequence[int], texts: Sequence[str]) -> Tensor:
    found = (
        t(list(texts), padding="max_length", max_length=n, truncation=True, return_tensors="pt").input_ids
        for t, n in zip(tokenizers, lengths, strict=True)
    )
    return torch.cat(list(found), 1)
