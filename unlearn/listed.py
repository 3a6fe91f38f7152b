"""Drawings of listed prompts by any pipeline, and what judges see in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Generator, Tensor

from unlearn.data import Batch
from unlearn.errors import BadValue
from unlearn.gallery import Judge, seen
from unlearn.ops.prompt_lists import Asked
from unlearn.ops.seeing import load_judge
from unlearn.ops.stats import wilson
from unlearn.registry import unknown
from unlearn.scenario import parse
from unlearn.subject import Prompted
from unlearn.subjects._pipelines import Loaded

SHIPPED = "ink"  # stands for the judges of the embedded scenario
NOTHING = "nothing"
ROWS = 16  # drawings made at once
Panel = Mapping[str, tuple[tuple[str, ...], Judge]]
"""For each axis the names of its concepts, and who sees them, see `unlearn.gallery.Gallery`."""


def panel(where: str, concept: str = "") -> Panel:
    """The judges of this name.

    Args:
        where: Folder or hub name of a transformers image classifier, or `ink` for the shipped judges.
        concept: A name that one of them must know, or nothing.

    Raises:
        BadWeights: If there is no such judge.
        BadValue: If none knows the concept.
    """
    if where != SHIPPED:
        judge = load_judge(where, [concept] if concept else [])
        return {"label": (judge.names, judge)}
    ink = parse(SHIPPED)
    gallery = ink.gallery(ink.request)
    found = {} if gallery is None else {a: (gallery.names[a], look) for a, look in gallery.judges.items()}
    known = [name for names, _ in found.values() for name in names]
    if concept and concept not in known:
        raise unknown("concept", concept, known)
    return found


def drawings(loaded: Loaded, asked: Sequence[Asked], device: torch.device) -> Iterator[tuple[Asked, Tensor]]:
    """Each prompt with what it becomes, an image (3, H, W) between 0 and 1, in order.

    The noise of a prompt is what a generator on the CPU with its seed draws first, as in plain diffusers.

    Args:
        loaded: The pipeline, on the device.
        asked: With seeds; where a guidance is given, it replaces the pipeline's.
        device: Where it draws.

    Raises:
        BadValue: If a prompt has no seed.
    """
    for guidance, group in groupby(asked, lambda a: a.guidance):
        subject = loaded.subject if guidance is None else replace(loaded.subject, guidance=guidance)
        some = list(group)
        for part in (some[k : k + ROWS] for k in range(0, len(some), ROWS)):
            yield from zip(
                part, _drawn(subject, loaded.ids([a.prompt for a in part]).to(device), part), strict=True
            )


@dataclass(frozen=True, slots=True)
class Share:
    """How often something was seen.

    Attributes:
        hits: How often.
        n: In how many drawings.
    """

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.n

    @property
    def ends(self) -> tuple[float, float]:
        """Its Wilson interval at 95 %."""
        return wilson(self.hits, self.n)


def looked(judges: Panel, image: Tensor) -> dict[str, str]:
    """The name that each judge sees in an image (3, H, W) between 0 and 1, or `nothing`."""
    with torch.inference_mode():
        places = {axis: int(seen(look(image[None]))) for axis, (_, look) in judges.items()}
    return {axis: [*judges[axis][0], NOTHING][place] for axis, place in places.items()}


def shares(names: Sequence[str], found: Sequence[str]) -> dict[str, Share]:
    """How often each name was seen, and nothing.

    Args:
        names: All that can be seen.
        found: What was seen in each drawing.
    """
    return {name: Share(sum(f == name for f in found), len(found)) for name in (*names, NOTHING)}


def erased(concept: str, names: Sequence[str], found: Sequence[str]) -> Share | None:
    """How often drawings that ask for a concept show another one, or None if the judge does not know it."""
    same = [name for name in names if name.lower() == concept.lower()]
    return Share(sum(f not in (*same, NOTHING) for f in found), len(found)) if same else None


def _drawn(subject: Any, ids: Tensor, asked: Sequence[Asked]) -> Tensor:
    """Images (N, 3, H, W) of prompts (N, L), each from the noise of its seed."""
    rows = torch.arange(len(ids), device=ids.device)
    batch = Batch(ids[:, :0], ids, rows)
    seeds = [a.seed for a in asked if a.seed is not None]
    if len(seeds) < len(asked):
        raise BadValue("a prompt has no seed; give each one, so that it is drawn the same again")
    rngs = [Generator().manual_seed(s) for s in seeds]
    if isinstance(subject, Prompted):
        noise = torch.cat([subject.noise(1, rng) for rng in rngs]).to(ids.device)
        return subject.draw_from(subject.encode(batch), noise).cpu()
    one = [Batch(batch.x[k : k + 1], batch.y[k : k + 1], rows[k : k + 1]) for k in range(len(ids))]
    images: list[Tensor] = [subject.draw(b, rng).cpu() for b, rng in zip(one, rngs, strict=True)]
    return torch.cat(images)
