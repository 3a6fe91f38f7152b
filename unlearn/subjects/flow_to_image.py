"""Text-conditioned transformers that follow a flow."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch
from unlearn.ops import latents
from unlearn.ops.erasure import count, joined, taken
from unlearn.ops.verbs import like
from unlearn.registry import subjects
from unlearn.subject import mode
from unlearn.subjects._layouts import Layout, Said

TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
IMAGE = ("to_q", "to_k", "to_v", "to_out")
ENDS = ("time_text_embed.timestep_embedder", "norm_out", "proj_out")


@subjects.register("flow-to-image")
@dataclass(slots=True)
class FlowToImage:
    """Draws images of a prompt by following a flow; x are latents and y the token ids of prompts.

    The ids for all text encoders lie one after the other in y.

    Between an image x₀ and noise ε lies z = (1 − σ) x₀ + σ ε at time t = 1000 σ, and the transformer predicts the
    velocity v = ε − x₀ there. What erasure says of predicted noise holds for velocities as it stands. With the score
    s(z) = ∇ log p_σ(z), E[ε | z] = −σ s and E[x₀ | z] = (z + σ² s) / (1 − σ), so the best prediction is

        v(z) = E[ε − x₀ | z] = −(z + σ s(z)) / (1 − σ),

    affine in s with coefficients that depend on z and σ alone. A combination Σ wᵢ v(z | cᵢ) with Σ wᵢ = 1 is then the
    velocity that belongs to the score Σ wᵢ s(z | cᵢ), and ESD's target v(∅) − η (v(c) − v(∅)) is such a one: its
    weights are 1 + η and −η. A guidance-distilled transformer predicts v(∅) + g (v(c) − v(∅)) for c; η then acts g
    times as strongly.

    Text and image tokens attend to each other in one attention. Its text stream has projections of its own, and these
    are what is called cross-attention here: `add_q_proj`, `add_k_proj`, `add_v_proj`, `to_add_out`. A text token's
    state changes from block to block, so there are no maps of fixed text states that could be edited in closed form.

    Attributes:
        module: Holds, by diffusers' names, `transformer`, `text_encoder` and where there is one `text_encoder_2`;
            the text encoders start frozen. A T5 is in the layout, frozen.
        layout: The family of the transformer.
        scheduler: A diffusers FlowMatchEulerDiscreteScheduler; its shift is what counts.
        empty: Token ids of the empty prompt, with shape (L,).
        pseudo: Token ids of the prompt that stands in for a forgotten one, with shape (L,).
        shape: Shape (C, H, W) of one latent.
        steps: Steps of a whole trajectory.
        guidance: Scale of guidance in samples.
        vae: A diffusers AutoencoderKL that turns latents into images, frozen; None where latents are images
            between -1 and 1.
        source: Folder of the diffusers pipeline that it came from; nothing where there is none.

    References:
        Lipman et al., 2023, Flow matching for generative modeling, arXiv:2210.02747
        Esser et al., 2024, Scaling rectified flow transformers for high-resolution image synthesis, arXiv:2403.03206
    """

    module: nn.Module
    layout: Layout
    scheduler: Any
    empty: Tensor
    pseudo: Tensor
    shape: tuple[int, int, int]
    steps: int = 28
    guidance: float = 3.5
    vae: nn.Module | None = None
    source: str = ""

    @property
    def denoiser(self) -> nn.Module:
        """What predicts the velocity."""
        return self.module.get_submodule("transformer")

    @property
    def text(self) -> nn.Module:
        """What encodes prompts and may change."""
        found = self.module.named_children()
        return nn.ModuleList(m for n, m in found if n.startswith("text_encoder"))

    def clone(self) -> Self:
        """A copy with a transformer and CLIP encoders of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def encode(self, batch: Batch) -> Said:
        """What the encoders say of each prompt: `states` (B, L, D) and `pooled` (B, P).

        And, where the transformer is distilled, the scale of `guidance` (B,) that it is told.
        """
        return self._at(self.layout.said(self.module, batch.y), self.guidance)

    def null(self, n: int) -> Said:
        """What they say of the empty prompt, n times."""
        return self._repeated(self.empty, n)

    def predict(self, z: Tensor, t: Tensor, cond: Said) -> Tensor:
        """The velocity for latents z (B, C, H, W) at times t (B,)."""
        return self.layout.velocity(self.denoiser, z, t, cond)

    def times(self, n: int, rng: Generator) -> Tensor:
        """Times, with shape (n,), whose σ before it is shifted is the sigmoid of a standard normal."""
        sigma = torch.randn(n, generator=rng, device=rng.device).sigmoid()
        shift, total = self._shift(), float(self.scheduler.config.num_train_timesteps)
        return (total * shift * sigma / (1 + (shift - 1) * sigma)).to(like(self.module).device)

    def between(self, until: Tensor, rng: Generator) -> Tensor:
        """Times (B,) drawn between those that are reached after `until` (B,) steps and after one less, see `Jitters`."""
        reached = self._sampler().timesteps
        low, high = reached[until], reached[(until - 1).clamp_min(0)]
        found: Tensor = low + (high - low) * torch.rand(low.shape, generator=rng, device=rng.device).to(low)
        return found

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents x (B, C, H, W) with noise of times t (B,), and their velocity."""
        sigma = (t / self.scheduler.config.num_train_timesteps).to(x).view(-1, 1, 1, 1)
        return (1 - sigma) * x + sigma * noise, noise - x

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Squared error of each example's velocity at a drawn time, meaned over its elements, (B,).

        Without a generator, time and noise of an example are seeded by its id.
        """
        z, t, target = latents.noised(self, batch, rng)
        return latents.squared(self.predict(z, t, self.encode(batch)), target)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error against the model's own stopped-gradient velocity for the pseudo prompt, with shape (B,)."""
        z, t, _ = latents.noised(self, batch, rng)
        with torch.no_grad():
            target = self.predict(z, t, self._repeated(self.pseudo, len(batch)))
        return latents.squared(self.predict(z, t, self.encode(batch)), target)

    @torch.no_grad()
    def trajectory(self, cond: Said, until: int, guidance: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents after `until` of `steps` of Euler's steps from pure noise, and the time (B,) reached.

        Args:
            cond: See `encode`.
            until: Steps to take, 0 for pure noise, `steps` for finished latents at time 0.
            guidance: Scale g of v(∅) + g (v(c) − v(∅)); what a distilled transformer is told instead.
            rng: Source of the noise.
        """
        return self._carried(self.noise(count(cond), rng), cond, until, guidance)

    def sample(self, batch: Batch, rng: Generator) -> Tensor:
        """Latents of a new image of each row's prompt, with shape (B, C, H, W)."""
        return self.trajectory(self.encode(batch), self.steps, self.guidance, rng)[0]

    @torch.no_grad()
    def draw(self, batch: Batch, rng: Generator) -> Tensor:
        """An image for each row's prompt, with shape (B, 3, H, W), between 0 and 1."""
        parts = list(latents.some(batch, self.shape))
        noise = self.noise(len(batch), rng).split([len(p) for p in parts])
        made = [
            self._carried(z, self.encode(p), self.steps, self.guidance)[0]
            for p, z in zip(parts, noise, strict=True)
        ]
        return torch.cat([latents.pictures(self.vae, z) for z in made])

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Pure noise, from which `draw` begins, with shape (n, C, H, W)."""
        return torch.randn(n, *self.shape, generator=rng, device=rng.device).to(like(self.module))

    def parts(self) -> dict[str, nn.Module]:
        """Parts of the transformer by name, and the text encoders.

        `cross-attention` are the text stream's projections, `self-attention` those of the image stream and of blocks
        in which both are one, `rest` what is neither, and `ends` the output and the embedding of time.
        """
        named = [(n.rpartition(".")[2], m) for n, m in self.denoiser.named_modules()]
        cross, own = ([m for n, m in named if n in names] for names in (TEXT, IMAGE))
        inside = {m for part in (*cross, *own) for m in part.modules()}
        rest = [
            m for _, m in named if m not in inside and next(m.parameters(recurse=False), None) is not None
        ]
        return {
            "cross-attention": nn.ModuleList(cross),
            "cross-attention-kv": nn.ModuleList(m for n, m in named if n in TEXT[1:3]),
            "self-attention": nn.ModuleList(own),
            "rest": nn.ModuleList(rest),
            "ends": nn.ModuleList(m for n, m in self.denoiser.named_modules() if n in ENDS),
            "all": self.denoiser,
            "text": self.text,
        }

    def _carried(self, z: Tensor, cond: Said, until: int, guidance: float) -> tuple[Tensor, Tensor]:
        sampler, n = self._sampler(), len(z)
        rows = [cond] if self.layout.distilled or guidance == 1 else [self.null(n), cond]
        k, told = len(rows), self._at(joined(*rows), guidance)
        with mode(self.denoiser, train=False):
            for t in sampler.timesteps[:until]:
                free, *led = self.predict(torch.cat([z] * k), t.expand(k * n), told).chunk(k)
                v = torch.lerp(free, led[0], guidance) if led else free
                z = sampler.step(v, t, z).prev_sample
        reached = sampler.timesteps[until] if until < self.steps else torch.zeros_like(sampler.timesteps[0])
        return z, reached.expand(n)

    def _at(self, said: Said, guidance: float) -> Said:
        """What the encoders say, with the scale of guidance where the transformer is told it."""
        if not self.layout.distilled:
            return said
        pooled = said["pooled"]
        return {**said, "guidance": torch.full((len(pooled),), guidance, device=pooled.device)}

    def _repeated(self, ids: Tensor, n: int) -> Said:
        """The conditioning of one prompt (L,), n times."""
        ids = ids.to(like(self.module).device)
        once = self._at(self.layout.said(self.module, ids[None]), self.guidance)
        said: Said = taken(once, torch.zeros(n, dtype=torch.long, device=ids.device))
        return said

    def _mu(self) -> float | None:
        """The shift of larger images, where the scheduler makes it depend on their tokens."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config, (_, h, w), patch = self.scheduler.config, self.shape, self.layout.patch
        if not config.use_dynamic_shifting:
            return None
        mu: float = calculate_shift((h // patch) * (w // patch), config.base_image_seq_len,
                                    config.max_image_seq_len, config.base_shift, config.max_shift)  # fmt: skip
        return mu

    def _shift(self) -> float:
        mu = self._mu()
        if mu is None:
            return float(self.scheduler.config.shift)
        return math.exp(mu) if self.scheduler.config.time_shift_type == "exponential" else mu

    def _sampler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        sampler = FlowMatchEulerDiscreteScheduler.from_config(
            self.scheduler.config, stochastic_sampling=False
        )
        sigmas = self.layout.sigmas(self.steps)
        sampler.set_timesteps(self.steps, device=like(self.module).device, sigmas=sigmas, mu=self._mu())
        return sampler
