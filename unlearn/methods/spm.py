"""Semi-permeable membranes (SPM): one-dimensional adapters."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cosine_similarity, mse_loss

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.erasure import joined, taken
from unlearn.ops.freezing import only
from unlearn.ops.low_rank import KINDS, applied, beside
from unlearn.ops.names import concepts_of, names
from unlearn.ops.points import Plan, Sampling, paired, points
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Adapts, mode

Transport = Literal["both", "cosine", "tokens", "always"]
TEXT = ("states", "pooled")  # of a conditioning in several parts, those that say the prompt


@methods.register("spm")
class SPM(Method[Adapts]):
    """Blocks the concept by rank-1 adapters, which act as strongly as each prompt concerns it.

    Every linear layer and convolution W of the transformer blocks around the attentions becomes W x + γ U D x, with one
    row D and one column U. With ε on and ε* off (γ = 1 and 0), c a prompt of the concept, a its anchor (the empty
    prompt or another concept) and c̃ random text states, AdamW minimises over all U and D

        L = mean (ε(x_t, t, c) − [ε*(x_t, t, a) − η (ε*(x_t, t, c) − ε*(x_t, t, a))])²
            + λ mean (ε(x_t, t, c̃) − ε*(x_t, t, c̃))².

    x_t is denoised with guidance from pure noise for k steps, k uniform over 1 to S − 1. A c̃ is normal, scaled to 0.8
    to 1.2 times the norm of c, and taken with probability 1 − cos(c̃, c), at most 1 (latent anchoring).

    The weights stay as they are; the adapters go with them. For each prompt, γ is the larger of the cosine of its text
    states and those of the concept, and the share of the concept's tokens that are in it, at most over the concept's
    prompts (facilitated transport). A subject that carries adapters gets more: each is trained as if alone, and they
    add up. `transplanted` moves adapters to another model of the same architecture.

    References:
        Lyu et al., 2024, One-dimensional adapter to rule them all: concepts, diffusion models and erasing applications,
        arXiv:2312.16145

    Differences from the authors' released code:
        Their anchors come as pairs with the empty prompt, of which the first half is not used: of four, two are of the
        empty prompt; here all are random. At inference their program scales U and D by γ, so that adapters act by γ²
        (`squared`), and with several adds up the U and the D, so that those of different concepts mix; here they act by
        γ and do not mix. Their 8-bit AdamW is AdamW here, the resolution does not vary, t is the time that the sampler
        reached, and numbers k are spread evenly over the run. With `sampling="base"` latents come from the model
        without adapters, made beforehand; theirs come from the one in training. Of several prompts of a concept the
        tokens that all share are its tokens, where they share any; their prompts are bare names.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept", "anchor"})
    presets: ClassVar = {
        "paper": Preset(
            "authors' configuration, Stable Diffusion 1.4",
            {"iterations": 3000, "lr": 1e-4, "batch_size": 1, "eta": 1.0, "hold": 1000.0, "anchors": 4,
             "guidance": 3.0, "sampling": "student", "warmup": 500, "cycles": 3, "transport": "both"},
        ),
    }  # fmt: skip
    own: ClassVar = "paper"

    iterations: int = knob(120, "steps of AdamW", ge=1, search=(50, 3000))
    lr: float = knob(5e-3, "step size of AdamW", gt=0, search=(1e-4, 1e-2))
    batch_size: int = knob(4, "latents in an iteration", ge=1)
    eta: float = knob(2.0, "strength η of guidance away from the concept", ge=0, search=(0.25, 3.0))
    hold: float = knob(3.0, "weight λ of random text states", ge=0, search=(1.0, 1000.0))
    anchors: int = knob(4, "random text states c̃ in an iteration", ge=1)
    guidance: float = knob(3.0, "scale of guidance towards the concept while latents are sampled", ge=0)
    sampling: Sampling = knob("base", "who denoises the latents: model without adapters, or with them")
    pool: int = knob(160, "latents sampled beforehand without adapters, at most those needed", ge=1)
    warmup: int = knob(0, "steps over which the step size rises from zero", ge=0)
    cycles: int = knob(0, "times that the step size falls to zero as a cosine; 0 keeps it constant", ge=0)
    transport: Transport = knob(
        "both", "what γ is: larger of cosine and share of tokens, either, or always 1"
    )
    squared: bool = knob(False, "act by γ², as the released program does")

    def unlearn(self, subject: Adapts, data: Split, run: Run) -> Adapts:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is not one anchor for each concept, or all are equal to their concepts.
        """
        bare = subject.bare()
        concept, anchor = paired(bare, data.concept, data.anchor)
        concepts = concepts_of(data.concept)
        membrane = Membrane(concepts, self._maps(bare, run.rng), self, bare.empty)
        on = partial(applied, bare.module, membrane.maps, 1.0)
        plan = Plan(self.iterations, self.batch_size, self.guidance, self.sampling, self.pool, least=1)
        losses = []
        with only(bare.module, []), mode(bare.module, train=False):
            opt = torch.optim.AdamW(membrane.maps.parameters(), self.lr)
            pace = torch.optim.lr_scheduler.LambdaLR(opt, self.pace)
            batches = points(bare, concept, len(data.concept), plan, run, on)
            for z, t, row in run.track(batches, "unlearn", self.iterations):
                some = torch.arange(self.anchors, device=z.device) % len(z)
                free = nearby(taken(concept, row[some]), run.rng)
                zs, ts, c = (
                    torch.cat([z, z[some]]),
                    torch.cat([t, t[some]]),
                    joined(taken(concept, row), free),
                )
                with torch.no_grad():
                    neutral = bare.predict(z, t, taken(anchor, row))
                    off = bare.predict(zs, ts, c)
                with on():
                    terms = self.terms(bare.predict(zs, ts, c), off, neutral)
                    descend(opt, terms[0] + self.hold * terms[1])
                pace.step()
                losses.append(torch.stack(terms).detach())
        for erasing, anchoring in torch.stack(losses).tolist():
            run.note(erasing=erasing, anchoring=anchoring)
        return subject.adapted(membrane)

    def beside(self) -> bool:
        """Not where γ is always 1: then U D can be added to the weights."""
        return self.transport != "always"

    def restore(self, subject: Adapts, state: Mapping[str, Tensor]) -> Adapts:
        """See `Method.restore`; all that was added is one adapter."""
        prefix = f"adapters.{len(subject.adapters())}."
        own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        prompts = own["prompts"]
        concepts = prompts.split(own["sizes"].tolist() if "sizes" in own else [len(prompts)])
        membrane = Membrane(concepts, self._maps(subject, torch.Generator()), self, subject.empty)
        membrane.load_state_dict(own)
        return subject.adapted(membrane)

    def terms(self, on: Tensor, off: Tensor, neutral: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of L, before λ.

        Args:
            on: ε at B latents for c, then at N latents for c̃, with shape (B + N, *).
            off: ε* of the same.
            neutral: ε* at the B latents for a, with shape (B, *).
        """
        b = len(neutral)
        goal = neutral - self.eta * (off[:b] - neutral)
        return mse_loss(on[:b], goal), mse_loss(on[b:], off[b:])

    def pace(self, step: int) -> float:
        """Step size of a step, counted from 0, as a share of `lr`."""
        if step < self.warmup:
            return step / self.warmup
        done = (step - self.warmup) / max(1, self.iterations - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * (self.cycles * done % 1)))

    def _maps(self, subject: Adapts, rng: Generator) -> nn.ModuleDict:
        return beside(subject.module, adaptable(subject), 1, rng)


class Membrane(nn.Module):
    """An adapter that acts as strongly as a prompt concerns its concept, as `unlearn.subject.Adapts` wants it.

    Args:
        concepts: Token ids of each concept's prompts, with shape (P, L); several where they are erased at once.
        maps: Low-rank maps.
        spm: The hyper-parameters.
        empty: Token ids of the empty prompt, with shape (L,).

    Attributes:
        constant: Whether γ is 1 for every prompt.
    """

    prompts: Tensor

    def __init__(self, concepts: Sequence[Tensor], maps: nn.ModuleDict, spm: SPM, empty: Tensor) -> None:
        super().__init__()
        self.register_buffer("prompts", torch.cat(list(concepts)))
        if len(concepts) > 1:
            self.register_buffer("sizes", torch.tensor([len(c) for c in concepts]))
        self.maps, self.spm = maps, spm
        self.names = names(concepts, empty)
        self.constant = spm.transport == "always"

    def forward(self, states: Tensor, ids: Tensor, own: Tensor) -> Tensor:
        """γ, with shape (B,).

        Args:
            states: Text states of prompts, with shape (B, L, D).
            ids: Their token ids, with shape (B, L).
            own: Text states of the concept's prompts, with shape (P, L, D).
        """
        like: Tensor = cosine_similarity(states.flatten(1)[:, None], own.flatten(1), dim=-1).amax(1)
        shares = [torch.isin(n.to(ids), row).to(like).mean() for row in ids for n in self.names]
        share = torch.stack(shares).view(len(ids), -1).amax(1)
        gamma: Tensor = {
            "both": torch.maximum(like, share),
            "cosine": like,
            "tokens": share,
            "always": torch.ones_like(like),
        }[self.spm.transport]
        return gamma.square() if self.spm.squared else gamma


def adaptable(subject: Adapts) -> list[nn.Module]:
    """The layers of a model that get adapters: all linear ones and convolutions of its transformer blocks."""
    return [m for m in subject.parts()["blocks"].modules() if isinstance(m, KINDS)]


def transplanted(source: Adapts, target: Adapts) -> Adapts:
    """The target with a copy of each adapter of the source; its own text encoder judges prompts from then on.

    Args:
        source: Carries adapters.
        target: A model of the same architecture.

    Raises:
        Mismatch: If it is of another one.
    """
    for adapter in source.adapters():
        target = target.adapted(copy.deepcopy(adapter).to(next(target.module.parameters())))
    return target


def nearby(cond: Any, rng: Generator) -> Any:
    """Random conditionings about as large as others, and rather where these are not.

    Args:
        cond: Text states, with shape (N, L, D), or a dict that holds such `states` and perhaps a `pooled` state (N, P),
            each of which is drawn by itself; what else it holds stays.
        rng: Source of direction, acceptance and norm.
    """
    if isinstance(cond, Tensor):
        return _nearby(cond, rng)
    return {n: _nearby(c, rng) if n in TEXT else c for n, c in cond.items()}


def _nearby(c: Tensor, rng: Generator) -> Tensor:
    flat = c.flatten(1)
    found, left = torch.empty_like(flat), torch.arange(len(c), device=c.device)
    while len(left):
        drawn = normal(flat[left], rng)
        chance = 1 - cosine_similarity(drawn, flat[left])
        accepted = torch.rand(len(left), generator=rng, device=rng.device).to(c) < chance
        found[left[accepted]] = drawn[accepted]
        left = left[~accepted]
    size = 0.8 + 0.4 * torch.rand(len(c), generator=rng, device=rng.device).to(c)
    scale: Tensor = size * vector_norm(flat, dim=1) / vector_norm(found, dim=1)
    return (scale[:, None] * found).view_as(c)
