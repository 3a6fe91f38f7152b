"""Text-conditioned diffusion models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.errors import Mismatch
from unlearn.ops import latents
from unlearn.ops.clip_text import embedding_of, encode_embedded, ends
from unlearn.ops.cross_attention import recorded
from unlearn.ops.erasure import count, joined, taken
from unlearn.ops.low_rank import applied, check_fit
from unlearn.ops.recipe import Recipe
from unlearn.ops.steering import Steering
from unlearn.ops.verbs import fit, like, untrained, whole
from unlearn.registry import subjects
from unlearn.runtime import Run
from unlearn.subject import mode

ENDS = ("time_embedding", "conv_norm_out", "conv_out")
"""Of a UNet, the embedding of time and the output."""


@subjects.register("text-to-image")
@dataclass(slots=True)
class TextToImage:
    """Draws images of a prompt by diffusion; x are latents and y the token ids of their prompts.

    The autoencoder is frozen and shared between clones.

    Attributes:
        module: Holds, by diffusers' names, `unet` (a UNet2DConditionModel) and `text_encoder` (a transformers
            CLIPTextModel, frozen until a method frees it), see `components`; `guides` where it is steered; `adapters`
            where it is adapted, and then a conditioning is a pair of text states and the strengths (B, J) of all J.
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
        source: Folder of the diffusers pipeline that it came from; nothing where there is none.

    References:
        Ho et al., 2020, Denoising diffusion probabilistic models, arXiv:2006.11239
        Rombach et al., 2022, High-resolution image synthesis with latent diffusion models, arXiv:2112.10752
    """

    module: nn.Module
    scheduler: Any
    empty: Tensor
    pseudo: Tensor
    shape: tuple[int, int, int]
    steps: int = 50
    guidance: float = 3.0
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None
    vae: nn.Module | None = None
    source: str = ""

    @property
    def denoiser(self) -> nn.Module:
        """What predicts the noise."""
        return self.module.get_submodule("unet")

    @property
    def text(self) -> nn.Module:
        """What encodes prompts."""
        return self.module.get_submodule("text_encoder")

    def clone(self) -> Self:
        """A copy with a denoiser and a text encoder of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def encode(self, batch: Batch) -> Any:
        """Text states of each prompt, with shape (B, L, D)."""
        return self._told(self._said(batch.y), batch.y)

    def null(self, n: int) -> Any:
        """Text states of the empty prompt for n examples, with shape (n, L, D)."""
        return self._told(self._free(n), self.empty.expand(n, -1))

    def blank(self, n: int) -> Tensor:
        """Text states of the empty prompt for n examples, with shape (n, L, D)."""
        return self._states(self._repeated(self.empty, n))

    def predict(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """What the denoiser predicts for latents z (B, C, H, W) at times t (B,): noise or velocity."""
        with self._adapting(cond) as said:
            return self._predicted(z, t, said)

    def guided(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """What samples follow at times t (B,), with the shape of z: see `unlearn.subject.Prompted`."""
        guides = self._held("guides")
        at = (self._ddim().timesteps - t[:, None]).abs().argmin(1)
        with self._adapting(cond) as said:
            out = self._each(z, t, *self._rows(said, guides, len(z)))
        found = torch.zeros_like(out[0])
        for i in at.unique().tolist():
            here = at == i
            found[here] = Steering(guides, self.guidance)(i, *(o[here] for o in out))
        return found

    def attention(self, z: Tensor, t: Tensor, cond: Any) -> list[Tensor]:
        """Attention (B, heads, queries, L) of each cross-attention to each token while it predicts."""
        with recorded(self.parts()["cross-attention"].children()) as seen:
            self.predict(z, t, cond)
        return seen

    def times(self, n: int, rng: Generator) -> Tensor:
        """Times drawn as in training, with shape (n,)."""
        total: int = self.scheduler.config.num_train_timesteps
        return whole(total, n, rng, like(self.module).device)

    def between(self, until: Tensor, rng: Generator) -> Tensor:
        """Times (B,) drawn between those that are reached after `until` (B,) steps and after one less, see `Jitters`."""
        return latents.between(self.scheduler.config.num_train_timesteps, self.steps, until, rng)

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
        z, t, target = latents.noised(self, batch, rng)
        return latents.squared(self.predict(z, t, self.encode(batch)), target)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error against the model's own stopped-gradient prediction for the pseudo prompt, with shape (B,)."""
        z, t, _ = latents.noised(self, batch, rng)
        with torch.no_grad():
            pseudo = self.pseudo.to(batch.y.device).expand(len(batch), -1)
            target = self.predict(z, t, self._told(self._said(pseudo), pseudo))
        return latents.squared(self.predict(z, t, self.encode(batch)), target)

    @torch.no_grad()
    def trajectory(self, cond: Any, until: int, guidance: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents denoised by DDIM from pure noise for `until` of `steps` steps, and the time (B,) reached.

        Args:
            cond: See `encode`.
            until: Steps to take, 0 for pure noise, `steps` for finished latents at time 0.
            guidance: Scale g of ε(∅) + g (ε(c) − ε(∅)).
            rng: Source of the noise.
        """
        return self._denoised(self.noise(count(cond), rng), cond, until, guidance)

    def sample(self, batch: Batch, rng: Generator) -> Tensor:
        """Latents of a new image of each row's prompt, with shape (B, C, H, W)."""
        return self.trajectory(self.encode(batch), self.steps, self.guidance, rng)[0]

    def draw(self, batch: Batch, rng: Generator) -> Tensor:
        """An image for each row's prompt, with shape (B, 3, H, W), between 0 and 1."""
        parts = list(latents.some(batch, self.shape))
        noise = self.noise(len(batch), rng).split([len(p) for p in parts])
        return torch.cat([self.draw_from(self.encode(p), z) for p, z in zip(parts, noise, strict=True)])

    @torch.no_grad()
    def draw_from(self, cond: Any, noise: Tensor) -> Tensor:
        """An image for each conditioning and noise, with shape (B, 3, H, W), between 0 and 1."""
        return self.pictures(self._denoised(noise, cond, self.steps, self.guidance)[0])

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Pure noise, from which `draw` begins, with shape (n, C, H, W)."""
        return torch.randn(n, *self.shape, generator=rng, device=rng.device).to(like(self.module))

    def pictures(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) between 0 and 1 of finished latents (B, C, h, w)."""
        return latents.pictures(self.vae, z)

    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) between 0 and 1, the mean of what the autoencoder says."""
        return latents.latents_of(self.vae, images, self.shape[0])

    def steered(self, guide: nn.Module) -> Self:
        """The same model with one more guide in its module, see `unlearn.subject.Steers`."""
        return self._holding("guides", [*self._held("guides"), guide])

    def adapted(self, adapter: Any) -> Self:
        """The same model with one more adapter in its module, see `unlearn.subject.Adapts`."""
        check_fit(self.module, adapter.maps)
        return self._holding("adapters", [*self.adapters(), adapter])

    def adapters(self) -> list[nn.Module]:
        """The adapters that it carries, oldest first."""
        return self._held("adapters")

    def bare(self) -> Self:
        """The same model, with the same weights, without its adapters; its conditionings are text states."""
        return self._holding("adapters", [])

    def parts(self) -> dict[str, nn.Module]:
        """Parts of the denoiser by name, and the text encoder.

        What is in none of the attentions is in `rest`; `blocks` are the transformers around the attentions, and `ends`
        the output and the embedding of time.
        """
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
            "blocks": nn.ModuleList(m for n, m in blocks if n.split(".")[-2:-1] == ["attentions"]),
            "ends": nn.ModuleList(m for n, m in blocks if n in ENDS),
            "all": self.denoiser,
            "text": self.text,
        }

    def projections(self) -> list[nn.Module]:
        """Keys and values of each cross-attention, in the order of the denoiser's modules."""
        return list(self.parts()["cross-attention-kv"].children())

    def words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Text states (B, L, D) of each prompt and the position (B,) of the token before its first end of text."""
        return self._states(self._said(batch.y)), (ends(self.text, batch.y) - 1).clamp_min(0)

    def embeddings(self) -> Tensor:
        """Embeddings of all tokens, with shape (V, D)."""
        return embedding_of(self.text)

    def encode_embedded(self, embedded: Tensor, ids: Tensor) -> Any:
        """Text states (B, L, D) of prompts given as embedded tokens (B, L, D), with a gradient to them.

        Args:
            embedded: What takes the place of the tokens' own embeddings.
            ids: The tokens, with shape (B, L); they say where a prompt ends.
        """
        return self._told(encode_embedded(self.text, embedded), ids)

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with a newly drawn denoiser."""
        made = untrained(self.denoiser, self.build, rng)
        parts = self.module.named_children()
        texts = {n: copy.deepcopy(m) for n, m in parts if n.startswith("text_encoder")}
        return replace(self, module=nn.ModuleDict({"unet": made, **texts}))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains the denoiser in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _held(self, name: str) -> list[nn.Module]:
        held = dict(self.module.named_children()).get(name, nn.ModuleList())
        return list(held.children())

    def _holding(self, name: str, extras: list[nn.Module]) -> Self:
        """The same model with these guides or adapters in its module."""
        found = {n: m for n, m in self.module.named_children() if n != name}
        more = {name: nn.ModuleList(extras)} if extras else {}
        return replace(self, module=nn.ModuleDict({**found, **more}))

    def _told(self, said: Any, ids: Tensor) -> Any:
        """The conditioning of prompts: what the text encoder says, and how strong adapters are for their ids."""
        adapters: list[Any] = self.adapters()
        if not adapters:
            return said
        states = self._states(said)
        own = [self._states(self._said(a.prompts)) for a in adapters]
        ids = ids.to(states.device)
        return said, torch.stack([a(states, ids, o) for a, o in zip(adapters, own, strict=True)], 1)

    @contextmanager
    def _adapting(self, cond: Any) -> Iterator[Any]:
        """Applies the adapters as strongly as a conditioning asks for; gives what the text encoder said."""
        adapters: list[Any] = self.adapters()
        said, *scales = (cond[0], *cond[1].unbind(1)) if adapters else (cond,)
        with ExitStack() as stack:
            for a, scale in zip(adapters, scales, strict=True):
                stack.enter_context(applied(self.module, a.maps, scale))
            yield said

    def _denoised(self, z: Tensor, cond: Any, until: int, guidance: float) -> tuple[Tensor, Tensor]:
        ddim, guides, n = self._ddim(), self._held("guides"), len(z)
        with self._adapting(cond) as said, mode(self.denoiser, train=False):
            told, rows = self._rows(said, guides, n)
            steering = Steering(guides, guidance)
            for i, t in enumerate(ddim.timesteps[:until]):
                z = ddim.step(steering(i, *self._each(z, t.expand(n), told, rows)), t, z).prev_sample
        reached = ddim.timesteps[until] if until < self.steps else torch.zeros_like(ddim.timesteps[0])
        return z, reached.expand(n)

    def _rows(self, said: Any, guides: list[nn.Module], n: int) -> tuple[Any, int]:
        """Conditionings that a step of n samples needs, and how many times n: empty, the prompts', each guide's."""
        rows = [self._free(n), said, *(self._repeated(g.get_buffer("prompt"), n) for g in guides)]
        return joined(*rows), len(rows)

    def _each(self, z: Tensor, t: Tensor, told: Any, k: int) -> tuple[Tensor, ...]:
        """Predictions (B, *) of the same latents for each of k conditionings."""
        return self._predicted(torch.cat([z] * k), t.repeat(k), told).chunk(k)

    def _predicted(self, z: Tensor, t: Tensor, said: Any) -> Tensor:
        out: Tensor = self.denoiser(z, t, encoder_hidden_states=said.to(z.dtype)).sample
        return out

    def _said(self, ids: Tensor) -> Any:
        """What the text encoder says of prompts (B, L), as the denoiser wants it."""
        return self.text(input_ids=ids).last_hidden_state

    def _states(self, said: Any) -> Tensor:
        """The text states (B, L, D) in what the text encoder says."""
        states: Tensor = said
        return states

    def _free(self, n: int) -> Any:
        """What guidance leads away from."""
        return self._repeated(self.empty, n)

    def _repeated(self, ids: Tensor, n: int) -> Any:
        """What the text encoder says of one prompt (L,), n times."""
        ids = ids.to(like(self.module).device)
        return taken(self._said(ids[None]), torch.zeros(n, dtype=torch.long, device=ids.device))

    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        config = self.scheduler.config
        ddim = DDIMScheduler.from_config(config, clip_sample=config.get("clip_sample", False))
        ddim.set_timesteps(self.steps, device=like(self.module).device)
        return ddim


def components(unet: nn.Module, text_encoder: nn.Module) -> nn.ModuleDict:
    """The parts of a pipeline that may change, by diffusers' names; the text encoder starts frozen."""
    text_encoder.requires_grad_(False)
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
