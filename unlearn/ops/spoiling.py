"""Training examples spoilt on purpose, so that what a model should be without them is known beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unlearn.errors import BadValue
from unlearn.metric import Aim, Metric, Score
from unlearn.ops.division import pick
from unlearn.request import SPOILT
from unlearn.scenario import Material, Part
from unlearn.sources import Marked, Relabeled, Source

SIDE = 3 / 32
"""Side of a backdoor's patch as a part of the image's: 3 pixels of 32, 1 of 8."""
SHINE = 0.5
"""How much of a canary's mark is seen."""


@dataclass(frozen=True, slots=True)
class Spoiling(ABC):
    """A way to spoil examples.

    Attributes:
        share: Of the examples that it can spoil in a set, how many it does.
    """

    kind: ClassVar[str]
    """Of the request that names what was spoilt."""
    share: float

    def spoil(self, part: Part, rng: Generator, share: float | None = None) -> Part:
        """A part of which some examples are spoilt; its labels say which.

        Args:
            part: Clean examples.
            rng: Source of the choice, and of wrong labels and marks.
            share: Instead of its own.
        """
        y = part.labels.y
        able = self.able(y).nonzero().flatten()
        n = round((self.share if share is None else share) * len(able))
        rows = able[torch.randperm(len(able), generator=rng)[:n]].sort().values
        wrong = self.labelled(y, len(part.labels.classes), rng)
        chosen = torch.zeros(len(y), dtype=torch.bool)
        chosen[rows] = True
        changed = torch.where(chosen, wrong, y)
        targets = part.source.y.clone()
        targets[part.rows] = changed
        images = part.source.inner if isinstance(part.source, Relabeled) else part.source
        labels = replace(part.labels, y=changed, spoilt=chosen, way=self.kind)
        return replace(part, source=self.marked(images, targets, part.rows[rows], rng), labels=labels)

    def able(self, y: Tensor) -> Tensor:
        """Which examples can be spoilt, as a mask of shape (N,)."""
        return torch.ones_like(y, dtype=torch.bool)

    @abstractmethod
    def labelled(self, y: Tensor, classes: int, rng: Generator) -> Tensor:
        """The label that each example gets if it is spoilt, with shape (N,)."""

    def marked(self, source: Source, y: Tensor, rows: Tensor, rng: Generator) -> Source:
        """A source with these targets (N,) and, where the way has marks, a mark on each of some rows (n,)."""
        return Relabeled(source, y)


@dataclass(frozen=True, slots=True)
class Noise(Spoiling):
    """Labels are wrong, each of the other classes as likely."""

    kind: ClassVar[str] = "noisy"

    def labelled(self, y: Tensor, classes: int, rng: Generator) -> Tensor:
        """See `Spoiling.labelled`."""
        return (y + torch.randint(1, classes, y.shape, generator=rng)) % classes


@dataclass(frozen=True, slots=True)
class Confusion(Spoiling):
    """Labels of two classes a and b are swapped (interclass confusion).

    Attributes:
        pair: Ids of both.

    References:
        Goel et al., 2022, Towards adversarial evaluations for inexact machine unlearning, arXiv:2201.06640
    """

    kind: ClassVar[str] = "confused"
    pair: tuple[int, int]

    def able(self, y: Tensor) -> Tensor:
        """See `Spoiling.able`."""
        return torch.isin(y, torch.tensor(self.pair))

    def labelled(self, y: Tensor, classes: int, rng: Generator) -> Tensor:
        """See `Spoiling.labelled`."""
        return sum(self.pair) - y


@dataclass(frozen=True, slots=True)
class Backdoor(Spoiling):
    """A bright square near the lower right corner stands for a target class, of which no example is spoilt.

    Attributes:
        target: Id of the class.
        inset: Pixels between the patch and both edges: as many as a random crop may cut off.

    References:
        Gu et al., 2017, BadNets, arXiv:1708.06733
    """

    kind: ClassVar[str] = "poisoned"
    target: int
    inset: int

    def able(self, y: Tensor) -> Tensor:
        """See `Spoiling.able`."""
        return y != self.target

    def labelled(self, y: Tensor, classes: int, rng: Generator) -> Tensor:
        """See `Spoiling.labelled`."""
        return torch.full_like(y, self.target)

    def marked(self, source: Source, y: Tensor, rows: Tensor, rng: Generator) -> Source:
        """See `Spoiling.marked`."""
        shape = _shape(source)
        which = torch.full((len(source),), -1)
        which[rows] = 0
        bright = torch.full((1, *shape), 255, dtype=torch.uint8)
        return Marked(source, y, bright, patch(shape[1], shape[2], self.inset), which)


@dataclass(frozen=True, slots=True)
class Canaries(Spoiling):
    """Through each image shines a random picture of its own, and its label is random.

    References:
        Carlini et al., 2019, The secret sharer, arXiv:1802.08232
    """

    kind: ClassVar[str] = "planted"

    def labelled(self, y: Tensor, classes: int, rng: Generator) -> Tensor:
        """See `Spoiling.labelled`."""
        return torch.randint(classes, y.shape, generator=rng)

    def marked(self, source: Source, y: Tensor, rows: Tensor, rng: Generator) -> Source:
        """See `Spoiling.marked`."""
        shape = _shape(source)
        which = torch.full((len(source),), -1)
        which[rows] = torch.arange(len(rows))
        marks = torch.randint(256, (len(rows), *shape), generator=rng, dtype=torch.uint8)
        return Marked(source, y, marks, torch.full(shape[1:], SHINE), which)


def patch(height: int, width: int, inset: int) -> Tensor:
    """Where a square of `SIDE` of the image's height lies, 1 inside and 0 outside, with shape (H, W).

    Args:
        height: Of the image, H.
        width: Of the image, W.
        inset: Pixels between the square and the lower and right edges.

    Example:
        >>> patch(8, 8, 1).nonzero().tolist()
        [[6, 6]]
    """
    side = max(1, round(SIDE * height))
    found = torch.zeros(height, width)
    found[height - inset - side : height - inset, width - inset - side : width - inset] = 1
    return found


def without(metric: Metric, name: str, aim: Aim) -> Score:
    """A score of which nothing is known, because nothing was spoilt in a way that the metric looks at."""
    such = ", or ".join(
        f"{k.what} (as in digits/{w},{k.option})" for w, k in SPOILT.items() if w in metric.ways
    )
    return Score(name=name, metric=metric.name, value=None, aim=aim, note=f"only for data with {such}")


def spoilt(clean: Material, way: Spoiling) -> Material:
    """The data with training examples spoilt, and held-out ones spoilt in the same way beside the clean ones.

    Raises:
        BadValue: If no example would be spoilt, or none would be left.
    """
    train = way.spoil(clean.train, torch.Generator().manual_seed(1))
    n = int(train.labels.spoilt.sum()) if train.labels.spoilt is not None else 0
    if not 0 < n < len(train.rows):
        raise BadValue(
            f"{way} spoils {n} of {len(train.rows)} training examples; ask for at least one, and not for all of them"
        )
    extra = {}
    for seed, name in enumerate(("fit", "test"), start=3):
        held: Part = getattr(clean, name)
        everything, mixed = (
            way.spoil(held, torch.Generator().manual_seed(seed), share) for share in (1.0, None)
        )
        extra[f"{way.kind}_{name}"] = pick(everything, way.able(held.labels.y).nonzero().flatten())
        extra[f"mixed_{name}"] = mixed
    return replace(clean, train=train, extra=extra)


def _shape(source: Source) -> tuple[int, ...]:
    """Of an image: channels, height, width."""
    return tuple(source.fetch(torch.zeros(1, dtype=torch.long)).shape[1:])
