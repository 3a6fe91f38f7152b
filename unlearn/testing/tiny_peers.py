"""Models for methods that are lent some: tiny subjects of the same recipe, trained on other examples."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from unlearn.ops.peers import Lent
from unlearn.runtime import Run, seeded_globals
from unlearn.testing.tiny import CPU, specimen

MOST = 8  # models that are lent, however many are asked for


def peers(name: str, kind: str, n: int) -> Lent:
    """Models around the specimen of a name, at most `MOST`; their counter is at 0.

    Args:
        name: Of the tiny subject.
        kind: `half-in` or `retrained`, see `unlearn.crowds`.
        n: How many.
    """
    return replace(_made(name, kind, min(n, MOST)))


@functools.cache
def _made(name: str, kind: str, n: int) -> Lent:
    tiny = specimen(name)
    forget, retain = (tiny.sets[k].rows for k in ("forget", "retain"))
    ids = torch.cat([forget, retain]).sort().values
    keep = _halves(len(ids), n) if kind == "half-in" else torch.isin(ids, retain).expand(n, -1)
    subjects = []
    for k in range(n):
        with seeded_globals(k + 1, CPU):
            subject = tiny.subject.fresh(torch.Generator().manual_seed(1000 + k))
            subject.fit(tiny.sets["retain"].take(ids[keep[k]]), Run(k, CPU))
        subject.module.eval()
        subjects.append(subject)
    return Lent(subjects, ids, keep.clone(), 1.0)


def _halves(size: int, n: int) -> Tensor:
    """Random halves, two by two without a common example and nobody left out, as a mask of shape (n, size)."""
    rng, found = torch.Generator().manual_seed(3), torch.zeros(n, size, dtype=torch.bool)
    for k in range(n):
        if k % 2:
            found[k] = ~found[k - 1]
        else:
            found[k, torch.randperm(size, generator=rng)[: size // 2]] = True
    return found
