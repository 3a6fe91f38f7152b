"""Erased stable diffusion (ESD)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from unlearn.data import Split
from unlearn.errors import BadData, Mismatch
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.erasure import (
    TRAINED,
    Original,
    Trained,
    chosen,
    encoded,
    joined,
    latents,
    spread,
    steps_of,
    taken,
)
from unlearn.ops.freezing import only
from unlearn.ops.steps import Eager
from unlearn.ops.verbs import whole
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Denoises, Jitters, mode

Example = tuple[Tensor, Tensor, Any, Tensor]  # z, t, conditioning, target
Told = tuple[Any, Any]  # conditionings of the prompts that lose the concept, and of those that name it


Spelled = Literal[Trained, "xattn", "xattn-strict", "noxattn", "esd-x", "esd-x-strict", "esd-u", "esd-all"]
SPELLED: dict[str, Trained] = {
    **{t: t for t in get_args(Trained)}, "xattn": "x", "xattn-strict": "strict", "noxattn": "u",
    "esd-x": "x", "esd-x-strict": "strict", "esd-u": "layers", "esd-all": "full",
}  # fmt: skip
"""What trains, also as the authors' two programs call it."""


@methods.register("esd")
class ESD(Method[Denoises]):
    """Trains the denoiser to predict, for the concept, what guidance away from it predicted before.

    With ε* the frozen original, ∅ the empty prompt and c a prompt of the concept,

        L = mean (ε(x_t, t, c) − [ε*(x_t, t, ∅) − η (ε*(x_t, t, c) − ε*(x_t, t, ∅))])²,

    minimised with Adam over some of the weights. x_t is denoised with guidance from pure noise for k steps,
    k uniform over 0 to S − 1. With `sampling="student"` the weights in training denoise it, anew for each
    iteration, and the original values of what trains are swapped in for the target. With `sampling="base"`
    the original denoises it, so a pool of (x_t, t, target) is made first and nothing is held twice. Each entry
    of the pool is distributed like one drawn anew; it is used several times where the pool is smaller than
    iterations times batch.

    With `erase_from="anchor"` the concept is erased only within a context a, the prompt that stands beside it in
    the set of anchors: the prediction for a moves to ε*(x_t, t, a) − η (ε*(x_t, t, c) − ε*(x_t, t, ∅)), on latents
    that were denoised towards a, as in the authors' program for diffusers.

    References:
        Gandikota et al., 2023, Erasing concepts from diffusion models, arXiv:2303.07345

    Differences from the authors' released code:
        The original program draws t at random between the step of the sampler that is reached and the one before,
        `jitter`; here, as in the newer one, it is the time reached. Its sampler leaves out the last step, so the run
        that should go to the end trains on an almost finished image; here that is k = S − 1, and no run goes further.
        In the newer program η = 2 is η = 1 here, and latents come from the pipeline's sampler, here from the
        subject's. Numbers k are spread evenly over the run, theirs are independent; latents of one student iteration
        share theirs. Its `u` trains linear layers and convolutions outside of cross-attention, here `esd-u`, while
        `u` is the original's, all but cross-attention, output and embedding of time. Weights train in the type that
        they have, and the network stays in evaluation mode.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept"})
    presets: ClassVar = {
        "paper": Preset(
            "authors' first program, Stable Diffusion 1.4",
            {"train": "x", "iterations": 1000, "lr": 1e-5, "batch_size": 1, "eta": 1.0, "guidance": 3.0,
             "sampling": "student", "jitter": True},
        ),
        "diffusers": Preset(
            "authors' program for diffusers, Stable Diffusion 1.4",
            {"train": "x", "iterations": 200, "lr": 5e-5, "batch_size": 1, "eta": 1.0, "guidance": 3.0,
             "sampling": "base", "pool": 200},
        ),
        "sdxl": Preset(
            "authors' program for diffusers, Stable Diffusion XL",
            {"train": "x", "iterations": 200, "lr": 2e-4, "batch_size": 1, "eta": 1.0, "guidance": 2.0,
             "sampling": "base", "pool": 200},
        ),
    }  # fmt: skip
    own: ClassVar = "diffusers"

    train: Spelled = knob("x", f"{TRAINED}; or as the authors call it")
    iterations: int = knob(60, "steps of Adam", ge=1, search=(20, 200))
    lr: float = knob(5e-4, "step size of Adam", gt=0, search=(1e-5, 2e-3))
    batch_size: int = knob(8, "latents in an iteration", ge=1)
    eta: float = knob(1.0, "strength η of guidance away from the concept", ge=0, search=(0.25, 3.0))
    guidance: float = knob(3.0, "scale of guidance towards the concept while latents are sampled", ge=0)
    sampling: Literal["base", "student"] = knob("base", "who denoises the latents: original, or itself")
    jitter: bool = knob(False, "draw t up to the step before the one that is reached")
    pool: int = knob(160, "latents sampled beforehand by the original, at most those needed", ge=1)
    erase_from: Literal["concept", "anchor"] = knob(
        "concept", "whose prompts lose the concept: its own, or those of a context given as anchors"
    )

    def reads(self) -> frozenset[str]:
        """The context as well, where there is one."""
        return self.uses | {"anchor"} if self.erase_from == "anchor" else self.uses

    def unlearn(self, subject: Denoises, data: Split, run: Run) -> Denoises:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is no prompt, or not one of the context for each.
            Mismatch: If nothing of what is to train is in the model, or it knows no times between its sampler's.
        """
        told, losses = self._told(subject, data), []
        part = SPELLED[self.train]
        with only(subject.module, chosen(subject, part)) as params, mode(subject.module, train=False):
            if self.sampling == "base":
                examples = self._from_base(subject, told, len(data.concept), run)
            else:
                examples = self._from_student(subject, told, len(data.concept), Original(params), run)
            with Eager(params, lambda some: torch.optim.Adam(some, self.lr)):
                for z, t, cond, goal in run.track(examples, "unlearn", self.iterations):
                    loss = mse_loss(subject.predict(z, t, cond), goal)
                    loss.backward()
                    losses.append(loss.detach())
        for value in torch.stack(losses).tolist():
            run.note(loss=value)
        return subject

    def _told(self, subject: Denoises, data: Split) -> Told:
        """Conditionings of the prompts that lose the concept, and of those that name it."""
        concept = encoded(subject, data.concept)
        if self.erase_from == "concept":
            return concept, concept
        if len(data.anchor) != len(data.concept):
            raise BadData(
                f"{len(data.anchor)} prompts give the context of {len(data.concept)} that name the concept; give one for each"
            )
        return encoded(subject, data.anchor), concept

    def _goal(self, subject: Denoises, z: Tensor, t: Tensor, told: Told, rows: Tensor) -> Tensor:
        start, concept = (taken(c, rows) for c in told)
        return away(subject, z, t, concept, self.eta, None if self.erase_from == "concept" else start)

    def _time(self, subject: Denoises, t: Tensor, until: Tensor, run: Run) -> Tensor:
        """The times (B,) that are told, for those that were reached after `until` (B,) steps."""
        if not self.jitter:
            return t
        if not isinstance(subject, Jitters):
            raise Mismatch(
                f"a {type(subject).__name__} does not say what lies between two steps of its sampler; use jitter=false"
            )
        return subject.between(until, run.rng)

    def _from_base(self, subject: Denoises, told: Told, prompts: int, run: Run) -> Iterator[Example]:
        """Batches of a pool of examples that is made at once, before anything trains."""
        needed = self.iterations * self.batch_size
        n = min(self.pool, needed)
        until = spread(n, steps_of(subject), run.rng)
        row = whole(prompts, n, run.rng, run.rng.device)
        made = []
        for some, z, t in latents(subject, told[0], row, until, self.guidance, run):
            t = self._time(subject, t, until[some], run)
            made.append((row[some], z, t, self._goal(subject, z, t, told, row[some])))
        row, z, t, goal = map(torch.cat, zip(*made, strict=True))
        passes = [torch.randperm(n, generator=run.rng, device=run.rng.device) for _ in range(-(-needed // n))]
        order = torch.cat(passes)[:needed].split(self.batch_size)
        return ((z[i], t[i], taken(told[0], row[i]), goal[i]) for i in order)

    def _from_student(
        self, subject: Denoises, told: Told, prompts: int, original: Original, run: Run
    ) -> Iterator[Example]:
        """Batches that the weights in training denoise, with targets of the original."""
        for until in spread(self.iterations, steps_of(subject), run.rng).tolist():
            rows = whole(prompts, self.batch_size, run.rng, run.rng.device)
            cond = taken(told[0], rows)
            z, t = subject.trajectory(cond, until, self.guidance, run.rng)
            t = self._time(subject, t, torch.full_like(rows, until), run)
            with original():
                goal = self._goal(subject, z, t, told, rows)
            yield z, t, cond, goal


@torch.no_grad()
def away(subject: Denoises, z: Tensor, t: Tensor, cond: Any, eta: float, start: Any = None) -> Tensor:
    """Guidance away from a conditioning, ε(∅) − η (ε(c) − ε(∅)), with the shape of z.

    Args:
        subject: The model, with the weights it has now.
        z: Latents, with shape (B, *).
        t: Times, with shape (B,).
        cond: Conditioning c.
        eta: Strength η.
        start: Conditioning a of ε(a) − η (ε(c) − ε(∅)); None for ∅.
    """
    rows = [subject.null(len(z)), cond] if start is None else [subject.null(len(z)), cond, start]
    k = len(rows)
    free, told, *rest = subject.predict(torch.cat([z] * k), torch.cat([t] * k), joined(*rows)).chunk(k)
    return (rest[0] if rest else free) - eta * (told - free)
