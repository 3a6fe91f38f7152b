"""Where erasing methods train: noisy latents on the way to drawings of a concept, and pairs of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unlearn.data import Handle
from unlearn.errors import BadData
from unlearn.ops.erasure import encoded, latents, spread, steps_of, taken
from unlearn.ops.verbs import whole
from unlearn.runtime import Run
from unlearn.subject import Denoises

Sampling = Literal["base", "student"]
"""Who denoises latents: the model as it is before anything trains, or as it is in each iteration."""

Points = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Latents (B, *), their times (B,), and the rows (B,) of their prompts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many latents are wanted, and how they come about.

    Attributes:
        iterations: Batches.
        batch_size: Latents in a batch.
        guidance: Scale of classifier-free guidance towards the prompts.
        sampling: Who denoises.
        pool: With `base`, latents made beforehand, at most those needed; each is used equally often.
        least: Smallest number of steps of a latent; the largest is one less than a whole trajectory.
    """

    iterations: int
    batch_size: int
    guidance: float
    sampling: Sampling
    pool: int
    least: int = 0


def points(
    subject: Denoises,
    told: Any,
    prompts: int,
    plan: Plan,
    run: Run,
    during: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Points:
    """Batches of latents that were denoised for a number of steps, uniform over a trajectory.

    With `base` all are made at once, now. With `student` each batch is made when it is asked for, in one pass, so its
    latents share their number of steps.

    Args:
        subject: The model.
        told: Conditionings of the prompts.
        prompts: Number of prompts; each latent has one at random.
        plan: How many, and how.
        run: Randomness, progress.
        during: What surrounds a pass of the student.
    """
    if plan.sampling == "base":
        return _made(subject, told, prompts, plan, run)
    return _in_turn(subject, told, prompts, plan, run, during)


def _made(subject: Denoises, told: Any, prompts: int, plan: Plan, run: Run) -> Points:
    needed = plan.iterations * plan.batch_size
    n = min(plan.pool, needed)
    until, row = _steps(subject, n, plan, run), whole(prompts, n, run.rng, run.rng.device)
    found = [(row[some], z, t) for some, z, t in latents(subject, told, row, until, plan.guidance, run)]
    row, z, t = map(torch.cat, zip(*found, strict=True))
    order = turns(n, needed, run).split(plan.batch_size)
    return ((z[i], t[i], row[i]) for i in order)


def _in_turn(
    subject: Denoises,
    told: Any,
    prompts: int,
    plan: Plan,
    run: Run,
    during: Callable[[], AbstractContextManager[None]],
) -> Points:
    for until in _steps(subject, plan.iterations, plan, run).tolist():
        row = whole(prompts, plan.batch_size, run.rng, run.rng.device)
        with during():
            z, t = subject.trajectory(taken(told, row), until, plan.guidance, run.rng)
        yield z, t, row


def _steps(subject: Denoises, n: int, plan: Plan, run: Run) -> Tensor:
    return plan.least + spread(n, steps_of(subject) - plan.least, run.rng)


def turns(n: int, needed: int, run: Run) -> Tensor:
    """Positions 0 to n - 1 in random order, again and again until there are enough, with shape (needed,)."""
    passes = [torch.randperm(n, generator=run.rng, device=run.rng.device) for _ in range(-(-needed // n))]
    return torch.cat(passes)[:needed]


def paired(subject: Denoises, concept: Handle, anchor: Handle) -> tuple[Any, Any]:
    """Conditionings of the prompts that name a concept, and of those that take their place, row by row.

    Args:
        subject: Encodes them.
        concept: The former.
        anchor: The latter, one for each.

    Raises:
        BadData: If there is not one anchor for each concept, or all anchors are equal to their concepts.
    """
    if not len(concept) == len(anchor) > 0:
        raise BadData(
            f"{len(concept)} prompts name what is erased and {len(anchor)} what takes its place; give one anchor for each concept"
        )
    both = zip(concept.batches(64), anchor.batches(64), strict=True)
    if all(torch.equal(c.y, a.y) for c, a in both):
        raise BadData(
            "every concept equals its anchor, so there is nothing to erase; give the empty prompt or another concept as anchor"
        )
    return encoded(subject, concept), encoded(subject, anchor)
