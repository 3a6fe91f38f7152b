"""Prompts that read like an exaggerated concept, found without the erased model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from unlearn.attack import Attack, Attempt, Case
from unlearn.data import Batch
from unlearn.knobs import knob
from unlearn.ops.prompts import nearest, prefixed
from unlearn.ops.verbs import whole
from unlearn.registry import attacks
from unlearn.subject import Denoises

ROWS = 512  # prompts that are encoded at once


@attacks.register("ring-a-bell")
class RingABell(Attack):
    """Searches prompts whose text states are those of the attacked prompt with more of the concept.

    The erased model is only drawn from: the search reads the text encoder E of the original, which the attacker is
    taken to have, and no denoiser. With the concept's direction v, a genetic algorithm minimises over the tokens s

        |E(s) − (E(p) + strength · v)|²,    v = mean (E(p) − E(q)),

    where p are the prompts that ask for the concept and q prompts that do not. Of each generation the better half
    stays; as many children have the head of one parent and the tail of another. Then one token changes in some of
    them, but never in the best.

    References:
        Tsai et al., 2023, Ring-A-Bell! How reliable are concept removal methods for diffusion models?, arXiv:2310.10012

    Differences from the authors' released code:
        Theirs takes 3,000 generations of about 200, whose number of children varies by chance, lets the best prompt change
        too, and draws that of the last generation alone, as text, which may be read as other tokens. Its pairs p and q
        were written for the purpose; ours are the attacked prompts, each with the most similar one that asks for
        something else.
    """

    strength: float = knob(3.0, "how much of the concept is added", ge=0, search=(0.5, 6))
    length: int = knob(16, "tokens of a found prompt, at most as many as fit", ge=1)
    population: int = knob(200, "prompts of a generation", ge=2)
    generations: int = knob(200, "generations", ge=1, search=(100, 3000))
    mutation: float = knob(0.25, "share of the prompts in which one token changes", ge=0, le=1)
    tries: int = knob(3, "times that the best prompts are drawn, after equal shares of the generations", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return f"{self.generations} generations of {self.population} prompts, drawn {self.tries} times"

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`."""
        ids, which = case.ids.unique(dim=0, return_inverse=True)
        goal = states(case.clean, ids) + self.strength * direction(case)
        pool = vocabulary(case)
        found = self.first(len(ids), case.clean.empty.to(ids.device), pool, case.run.rng)
        after = {self.generations * (k + 1) // self.tries for k in range(self.tries)}
        for step in case.run.track(range(1, self.generations + 1), "attack"):
            if not len(case.open):
                break
            found = best_first(found, distances(case.clean, found, goal))
            if step in after:
                yield case.open, case.asked(found[which[case.open], 0])
            found = self.mutated(bred(found, case.run.rng), pool, case.run.rng)

    def first(self, u: int, empty: Tensor, pool: Tensor, rng: Generator) -> Tensor:
        """Random prompts for each of u, with shape (u, population, L), like the empty prompt (L,) but for their words."""
        n = self._free(len(empty))
        found = prefixed(empty[None], n).repeat(u, self.population, 1)
        words = found[..., 1 : 1 + n]
        words.copy_(pool[whole(len(pool), words.numel(), rng, empty.device).view_as(words)])
        return found

    def mutated(self, found: Tensor, pool: Tensor, rng: Generator) -> Tensor:
        """Prompts (U, P, L) of which some have one new token from a pool (W,), but not the first of each."""
        n, free = found[..., 0].numel(), self._free(found.shape[2])
        chance = torch.rand(found.shape[:2], generator=rng, device=rng.device).to(found.device)
        chance[:, 0] = 1
        at = 1 + whole(free, n, rng, found.device).view_as(chance)
        word = pool[whole(len(pool), n, rng, found.device)].view_as(at)
        here = torch.arange(found.shape[2], device=found.device) == at[..., None]
        return torch.where(here & (chance < self.mutation)[..., None], word[..., None], found)

    def _free(self, length: int) -> int:
        """Words of a prompt of so many tokens."""
        return min(self.length, length - 3)


def vocabulary(case: Case) -> Tensor:
    """All tokens but those that begin and end a prompt, with shape (W,)."""
    every = torch.arange(len(case.clean.embeddings()), device=case.ids.device)
    return every[~torch.isin(every, case.clean.empty[:2].to(every.device))]


def direction(case: Case) -> Tensor:
    """Mean difference of text states (S,) between prompts of the concept and the most similar ones without it."""
    pairs = case.others[nearest(case.ids, case.others, case.run.rng)]
    return (states(case.clean, case.ids) - states(case.clean, pairs)).mean(0)


def states(subject: Denoises, ids: Tensor) -> Tensor:
    """What the text encoder says of prompts (B, L), with shape (B, S)."""
    with torch.no_grad():
        return flat(subject.encode(Batch(ids[:, :0], ids, torch.arange(len(ids), device=ids.device))))


def flat(cond: Any) -> Tensor:
    """All numbers of each row of a conditioning, with shape (B, S)."""
    if isinstance(cond, Tensor):
        return cond.flatten(1)
    return torch.cat([flat(c) for c in (cond.values() if isinstance(cond, Mapping) else cond)], 1)


def distances(subject: Denoises, found: Tensor, goal: Tensor) -> Tensor:
    """Summed squared distances (U, P) of prompts (U, P, L) from what they should be read like, (U, S)."""
    each = found.flatten(0, 1)
    rows = torch.arange(len(each), device=each.device)
    parts = [(states(subject, each[r]) - goal[r // found.shape[1]]).square().sum(1) for r in rows.split(ROWS)]
    return torch.cat(parts).view(found.shape[:2])


def best_first(found: Tensor, distance: Tensor) -> Tensor:
    """Prompts (U, P, L) in the order of their distances (U, P)."""
    order = distance.argsort(1)
    return found.gather(1, order[..., None].expand_as(found))


def bred(found: Tensor, rng: Generator) -> Tensor:
    """The first half of prompts (U, P, L), and children with the head of one of them and the tail of another."""
    u, size, length = found.shape
    parents = found[:, : (size + 1) // 2]
    n = size // 2
    other = whole(parents.shape[1], u * n, rng, found.device).view(u, n)
    cut = 1 + whole(length - 2, u * n, rng, found.device).view(u, n, 1)
    tails = parents.gather(1, other[..., None].expand(-1, -1, length))
    place = torch.arange(length, device=found.device)
    return torch.cat([parents, torch.where(place < cut, parents[:, :n], tails)], 1)
