"""Text-conditioned diffusion models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.errors import Mismatch
from unlearn.ops.clip_text import embedding_of, encode_embedded, ends
from unlearn.ops.recipe import Recipe
from unlearn.ops.steering import Steering
from unlearn.ops.verbs import fit, like, normal, of_example, untrained, whole
from unlearn.registry import subjects
from unlearn.runtime import Run
from unlearn.subject import mode


@subjects.register("text-to-image")
@dataclass(slots=True)
class TextToImage:
    """Draws images of a prompt by diffusion; x are latents and y the token ids of their prompts.

    The autoencoder is frozen and shared between clones.

    Attributes:
        module: Holds, by diffusers' names, `unet` (a UNet2DConditionModel) and `text_encoder` (a transformers
            CLIPTextModel, frozen until a method frees it), see `components`; and `guides` where it is steered.
        scheduler: A diffusers scheduler; its noise schedule and prediction type are what count.
        empty: Token ids of the empty prompt, with shape (L,).
        pseudo: Token ids of the prompt that stands in for a forgotten one, with shape (L,).
        shape: Shape (C, H, W) of one latent.
        steps: Steps of a whole trajectory.
        guidance: Scale g of ε(∅) + g (ε(c) − ε(∅)) in samples.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained denoiser; by default every layer is reset.
        vae: A diffusers AutoencoderKL that turns latents into images, frozen; None where latents are images
            between -1 and 1.

    References:
        Ho et al., 2020, Denoising diffusion probabilistic models, arXiv:2006.11239
        Rombach et al., 2022, High-resolution image synthesis with latent diffusion models, arXiv:2112.10752
    """

    module: nn.ModuleDict
    scheduler: Any
    empty: Tensor
    pseudo: Tensor
    shape: tuple[int, int, int]
    steps: int = 50
    guidance: float = 3.0
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None
    vae: nn.Module | None = None

    @property
    def denoiser(self) -> nn.Module:
        """What predicts the noise."""
        return self.module["unet"]

    @property
    def text(self) -> nn.Module:
        """What encodes prompts."""
        return self.module["text_encoder"]

    def clone(self) -> Self:
        """A copy with a denoiser and a text encoder of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def encode(self, batch: Batch) -> Tensor:
        """Text states of each prompt, with shape (B, L, D)."""
        return self._states(batch.y)

    def null(self, n: int) -> Tensor:
        """Text states of the empty prompt for n examples, with shape (n, L, D)."""
        return self._repeated(self.empty, n)

    def predict(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """What the denoiser predicts for latents z (B, C, H, W) at times t (B,): noise or velocity."""
        out: Tensor = self.denoiser(z, t, encoder_hidden_states=cond.to(z.dtype)).sample
        return out

    def times(self, n: int, rng: Generator) -> Tensor:
        """Times drawn as in training, with shape (n,)."""
        total: int = self.scheduler.config.num_train_timesteps
        return whole(total, n, rng, like(self.module).device)

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents x (B, C, H, W) with noise of times t (B,), and what should be predicted there."""
        z: Tensor = self.scheduler.add_noise(x, noise, t)
        kind: str = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return z, noise
        if kind == "v_prediction":
            return z, self.scheduler.get_velocity(x, noise, t)
        raise Mismatch(
            f"a scheduler that predicts {kind!r} is not supported; use one that predicts epsilon or v_prediction"
        )

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Squared error of each example's prediction at a drawn time, meaned over its elements, (B,).

        Without a generator, time and noise of an example are seeded by its id.
        """
        z, t, target = self._drawn(batch, rng)
        return _squared(self.predict(z, t, self.encode(batch)), target)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error against the model's own stopped-gradient prediction for the pseudo prompt, with shape (B,)."""
        z, t, _ = self._drawn(batch, rng)
        with torch.no_grad():
            target = self.predict(z, t, self._repeated(self.pseudo, len(batch)))
        return _squared(self.predict(z, t, self.encode(batch)), target)

    @torch.no_grad()
    def trajectory(self, cond: Any, until: int, guidance: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents denoised by DDIM from pure noise for `until` of `steps` steps, and the time (B,) reached.

        Args:
            cond: Text states, with shape (B, L, D).
            until: Steps to take, 0 for pure noise, `steps` for finished latents at time 0.
            guidance: Scale g of ε(∅) + g (ε(c) − ε(∅)).
            rng: Source of the noise.
        """
        n, ddim, guides = len(cond), self._ddim(), list(self._guides())
        z = torch.randn(n, *self.shape, generator=rng, device=rng.device).to(like(self.module))
        rows = [self.null(n), cond, *(self._repeated(g.get_buffer("prompt"), n) for g in guides)]
        told, steering = torch.cat(rows), Steering(guides, guidance)
        with mode(self.denoiser, train=False):
            for i, t in enumerate(ddim.timesteps[:until]):
                out = self.predict(torch.cat([z] * len(rows)), t.expand(len(told)), told)
                z = ddim.step(steering(i, *out.chunk(len(rows))), t, z).prev_sample
        reached = ddim.timesteps[until] if until < self.steps else torch.zeros_like(ddim.timesteps[0])
        return z, reached.expand(n)

    def sample(self, batch: Batch, rng: Generator) -> Tensor:
        """Latents of a new image of each row's prompt, with shape (B, C, H, W)."""
        return self.trajectory(self.encode(batch), self.steps, self.guidance, rng)[0]

    def draw(self, batch: Batch, rng: Generator) -> Tensor:
        """An image for each row's prompt, with shape (B, 3, H, W), between 0 and 1."""
        return self.draw_from(self.encode(batch), rng)

    @torch.no_grad()
    def draw_from(self, cond: Any, rng: Generator) -> Tensor:
        """An image for each conditioning, with shape (B, 3, H, W), between 0 and 1."""
        z = self.trajectory(cond, self.steps, self.guidance, rng)[0]
        if self.vae is not None:
            vae: Any = self.vae.to(z.device)
            z = vae.decode(z / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        return ((z.expand(-1, 3, -1, -1) + 1) / 2).clamp(0, 1)

    def steered(self, guide: nn.Module) -> Self:
        """The same model with one more guide in its module, see `unlearn.subject.Steers`."""
        guides = nn.ModuleList([*self._guides(), guide])
        return replace(self, module=nn.ModuleDict({**self.module, "guides": guides}))

    def parts(self) -> dict[str, nn.Module]:
        """Parts of the denoiser by name; what is in none of the attentions is in `rest`; and the text encoder."""
        blocks = list(self.denoiser.named_modules())
        cross = [m for n, m in blocks if n.endswith(".attn2")]
        attention = {id(m) for n, m in blocks if ".attn1" in n or ".attn2" in n}
        rest = [
            m
            for _, m in blocks
            if id(m) not in attention and next(m.parameters(recurse=False), None) is not None
        ]
        return {
            "cross-attention": nn.ModuleList(cross),
            "cross-attention-kv": nn.ModuleList(m.get_submodule(k) for m in cross for k in ("to_k", "to_v")),
            "self-attention": nn.ModuleList(m for n, m in blocks if n.endswith(".attn1")),
            "rest": nn.ModuleList(rest),
            "all": self.denoiser,
            "text": self.text,
        }

    def projections(self) -> list[nn.Module]:
        """Keys and values of each cross-attention, in the order of the denoiser's modules."""
        return list(self.parts()["cross-attention-kv"].children())

    def words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Text states (B, L, D) of each prompt and the position (B,) of the token before its first end of text."""
        return self._states(batch.y), (ends(self.text, batch.y) - 1).clamp_min(0)

    def embeddings(self) -> Tensor:
        """Embeddings of all tokens, with shape (V, D)."""
        return embedding_of(self.text)

    def encode_embedded(self, embedded: Tensor, ids: Tensor) -> Tensor:
        """Text states (B, L, D) of prompts given as embedded tokens (B, L, D), with a gradient to them.

        Args:
            embedded: What takes the place of the tokens' own embeddings.
            ids: The tokens, with shape (B, L); they say where a prompt ends.
        """
        return encode_embedded(self.text, embedded)

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with a newly drawn denoiser."""
        made = untrained(self.denoiser, self.build, rng)
        return replace(self, module=components(made, copy.deepcopy(self.text)))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains the denoiser in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _guides(self) -> nn.ModuleList:
        found: Any = self.module["guides"] if "guides" in self.module else nn.ModuleList()
        guides: nn.ModuleList = found
        return guides

    def _states(self, ids: Tensor) -> Tensor:
        states: Tensor = self.text(input_ids=ids).last_hidden_state
        return states

    def _repeated(self, ids: Tensor, n: int) -> Tensor:
        return self._states(ids.to(like(self.module).device)[None]).expand(n, -1, -1)

    def _drawn(self, batch: Batch, rng: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents at a drawn time, the time (B,), and what should be predicted there."""
        x = batch.x.to(like(self.module))
        if rng is None:
            t = of_example(batch.index, lambda g: self.times(1, g)[0])
            noise = of_example(batch.index, lambda g: torch.randn(x.shape[1:], generator=g)).to(x)
        else:
            t, noise = self.times(len(x), rng), normal(x, rng)
        z, target = self.noised(x, t, noise)
        return z, t, target

    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        ddim = DDIMScheduler.from_config(self.scheduler.config)
        ddim.set_timesteps(self.steps, device=like(self.module).device)
        return ddim


def components(unet: nn.Module, text_encoder: nn.Module) -> nn.ModuleDict:
    """The parts of a pipeline that may change, by diffusers' names; the text encoder starts frozen."""
    text_encoder.requires_grad_(False)
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def _squared(out: Tensor, target: Tensor) -> Tensor:
    return (out - target).square().flatten(1).mean(1)
