"""Forget sets that are hard: what is memorised, or what lies in one neighbourhood of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn.crew import train_all
from unlearn.crowds import jobs, margins_of
from unlearn.errors import BadValue, Mismatch
from unlearn.ops.duplicates import nearest
from unlearn.pool import Pool
from unlearn.subject import Classifies, Embeds, mode

WAYS = ("memorised", "easy", "alike")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A forget set.

    Attributes:
        positions: In the training set, sorted.
        mean: Memorisation of its examples, in the mean; or their distance from the middle one.
        of_all: The same of the whole training set.
        said: Both in words.
    """

    positions: list[int]
    mean: float
    of_all: float
    said: str


def choose(pool: Pool, by: str, share: float, models: int, seed: int) -> Chosen:
    """A share of the training set, chosen by how hard it is to forget.

    Memorisation of an example is the mean probability of its class in models that saw it, less that in models that did
    not, over models trained on random halves; their mean margins break ties.

    Args:
        pool: Of the scenario.
        by: One of `WAYS`: the most memorised, the least, or the nearest neighbours of a random example by the features
            of the original.
        share: Of the training set.
        models: On random halves.
        seed: Of the random example, and of the original.

    Raises:
        BadValue: If the way is unknown, or nothing or everything would be chosen.
        Mismatch: If the scenario trains no classifier.

    References:
        Feldman and Zhang, 2020, What neural networks memorize and why, arXiv:2008.03703
        Zhao et al., 2024, What makes unlearning hard and what to do about it, arXiv:2406.01257
    """
    if by not in WAYS:
        raise BadValue(f"no way to choose called {by!r}; choose one of {', '.join(WAYS)}")
    rows = pool.material.train.rows
    n = round(share * len(rows))
    if not 0 < n < len(rows):
        raise BadValue(f"a share of {share:g} is {n} of {len(rows)} training examples; give one in between")
    if not pool.can_train() or not isinstance(pool.template, Classifies):
        raise Mismatch(
            f"{pool.scenario.name} cannot train classifiers of its own, so nobody knows what is memorised"
        )
    score = (
        _alike(pool, seed) if by == "alike" else memorised(pool, models) * (1 if by == "memorised" else -1)
    )
    place = score.argsort(descending=True, stable=True)[:n].sort().values
    sign = -1 if by in ("easy", "alike") else 1
    mean, all_ = (float(sign * s.mean()) for s in (score[place], score))
    what = "distance from the example in the middle" if by == "alike" else "memorisation"
    return Chosen(
        place.tolist(), mean, all_, f"{what} {mean:.3f} in the mean, {all_:.3f} over the training set"
    )


def memorised(pool: Pool, models: int) -> Tensor:
    """Memorisation of each training example, with shape (N,); see `choose`."""
    handle = pool.shelf.of(pool.material.train)
    everything = torch.ones(len(pool.material.train.rows), dtype=torch.bool)
    asked = jobs("half", models, ~everything, everything)
    made = train_all(pool, asked, "half-in")
    margins = torch.stack([margins_of(m.subject, handle) for m in made]).double()
    inside = torch.stack([j.keep for j in asked])
    p = margins.sigmoid() + 1e-9 * margins
    seen, unseen = (torch.where(rows, p, 0).sum(0) / rows.sum(0) for rows in (inside, ~inside))
    return (seen - unseen).nan_to_num(nan=-1.0)


def _alike(pool: Pool, seed: int) -> Tensor:
    """Negative distance of each training example's features from those of a random one."""
    subject = pool.original(seed).subject
    if not isinstance(subject, Embeds):
        raise Mismatch(f"a {type(subject).__name__} has no features to be alike by; choose another way")
    with torch.no_grad(), mode(subject.module, train=False):
        batches = pool.shelf.of(pool.material.train).batches(512)
        x = torch.cat([subject.features(b).float().cpu() for b in batches])
    middle = int(torch.randint(len(x), (), generator=torch.Generator().manual_seed(seed)))
    return -nearest(x, x[[middle]])[0]
