"""Unlearning by low-rank maps: bounded ascent, descent, and a penalty that leaves whole blocks alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor, nn
from torch.linalg import vector_norm

from unlearn.data import Batch, Handle, Resident, Split, paced
from unlearn.knobs import Declared
from unlearn.ops.distances import class_means
from unlearn.ops.distill import kl
from unlearn.ops.feed_forward import chosen
from unlearn.ops.freezing import only
from unlearn.ops.low_rank import applied, beside, fold
from unlearn.ops.peft_adapter import bare, carried, factors_of, side_by_side, with_adapter
from unlearn.ops.steps import descend
from unlearn.ops.together import joined
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subject import mode

Keep = Literal["merged", "adapter"]
Terms = Callable[[Batch, Batch], tuple[Tensor, Tensor]]
"""From a batch to be forgotten and one to be kept to the loss, without the penalty, and the mean ℓ of the first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the maps are trained: fields of the same name in the methods say what they mean."""

    rank: int
    lora_alpha: float
    layers: str
    epochs: int
    lr: float
    lr_end: float
    batch_size: int
    weight_decay: float
    share: float
    shots: int
    alpha: float
    alpha_from: int
    keep: Keep

    @classmethod
    def of(cls, method: Declared) -> Self:
        """Those of a method, which has fields of these names."""
        return cls(**method.model_dump(include={f.name for f in fields(cls)}))


class Sample:
    """The examples of a split that are read, the same in every epoch.

    Args:
        data: What the method was lent.
        how: Share of either set that is drawn, examples of a class that are kept of it, and the size of a batch.
        rng: Of the draw and of the order.
    """

    def __init__(self, data: Split, how: Settings, rng: Generator) -> None:
        self._size, self._rng = how.batch_size, rng
        self.forget, self.retain = (
            few(part(h, how.share, self._size, rng), how.shots, self._size, rng)
            for h in (data.forget, data.retain)
        )

    def pairs(self) -> Iterator[tuple[Batch, Batch]]:
        """One pass over the retain set, each batch beside one of the forget set, as (forget, retain)."""
        return ((f, r) for r, f in paced(self.retain, self.forget, self._size, self._rng))

    @property
    def steps(self) -> int:
        """Batches in a pass."""
        return -(-len(self.retain) // self._size)


def part(handle: Handle, share: float, size: int, rng: Generator) -> Handle:
    """A random share of a set, at least one example of it, kept in memory; the set itself where that is all of it.

    Ids of examples are not kept.
    """
    if share == 1:
        return handle
    n = max(1, round(share * len(handle)))
    some = joined(list(islice(handle.batches(size, rng), -(-n // size))))
    return Resident(Arrays(some.x[:n], some.y[:n]), device=some.x.device)


def few(handle: Handle, shots: int, size: int, rng: Generator) -> Handle:
    """At most `shots` random examples of each class of a set, kept in memory; the set itself where `shots` is 0.

    Ids of examples are not kept. The whole set is read once.
    """
    if not shots:
        return handle
    seen: Counter[int] = Counter()
    found = []
    for b in handle.batches(size, rng):
        rows = []
        for row, label in enumerate(b.y.tolist()):
            rows += [row] if seen[label] < shots else []
            seen[label] += 1
        found.append(Batch(b.x[rows], b.y[rows], b.index[rows]))
    some = joined(found)
    return Resident(Arrays(some.x, some.y), device=some.x.device)


def adapt(subject: Any, sample: Sample, how: Settings, terms: Terms, run: Run) -> Any:
    """Trains low-rank maps beside linear layers, and adds them to the weights or keeps them beside these.

    Minimised with AdamW, whose step size falls as a cosine: the loss of `terms`, plus α times `group_norm`.

    Args:
        subject: Its module is changed or wrapped.
        sample: What is read.
        how: The settings.
        terms: The loss, see `Terms`.
        run: Randomness, progress, log.

    Returns:
        The subject.

    Raises:
        Mismatch: If the network has no linear layer.
        UnknownName: If no linear layer has a name that was given.
    """
    module, scale = subject.module, how.lora_alpha / how.rank
    blocks = chosen(module, how.layers)
    maps = beside(module, [m for block in blocks for m in block.values()], how.rank, run.rng)
    groups = [[p for n in block for p in maps[n.replace(".", "/")].parameters()] for block in blocks]
    opt = torch.optim.AdamW(maps.parameters(), how.lr, weight_decay=how.weight_decay, foreach=True)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(opt, how.epochs * sample.steps, how.lr_end)
    seen = []
    with only(module, []), mode(module, train=True), applied(module, maps, scale):
        for epoch in run.track(range(how.epochs), "unlearn"):
            for f, r in sample.pairs():
                loss, of_f = terms(f, r)
                penalty = group_norm(groups)
                descend(opt, loss + (how.alpha if epoch >= how.alpha_from else 0.0) * penalty)
                pace.step()
                seen.append(torch.stack([of_f.detach(), penalty.detach()]))
    for of_f, penalty in torch.stack(seen).tolist():
        run.note(forget=of_f, lasso=penalty)
    for norm in change(maps, blocks, scale):
        run.note(block=norm)
    return kept(subject, maps, scale, how.keep)


def group_norm(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Σ over blocks of √(Σ ‖A‖² + ‖B‖²), the group lasso; where a block is zero its gradient is zero.

    Args:
        groups: The factors of each block's maps.

    Example:
        >>> float(group_norm([[torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([2.0])]]))
        7.0
    """
    return torch.stack([vector_norm(torch.cat([p.flatten() for p in g])) for g in groups]).sum()


def bounded(bound: float, loss: Tensor) -> Tensor:
    """max(BND − ℓ, 0): what is left to gain by raising a loss up to a bound, and no gradient beyond it.

    Example:
        >>> bounded(4.6, torch.tensor(1.6)), bounded(4.6, torch.tensor(9.0))
        (tensor(3.), tensor(0.))
    """
    return (bound - loss).clamp_min(0.0)


def undecided(classes: int) -> float:
    """BND for a softmax over C classes, 2 ln C: twice the loss of a model that knows nothing.

    Example:
        >>> round(undecided(10), 4)
        4.6052
    """
    return 2 * math.log(classes)


class Prototypes:
    """The mean feature of each class, and how far features are from that of their own.

    Args:
        v: Features, with shape (N, D).
        y: Their classes, with shape (N,).
    """

    def __init__(self, v: Tensor, y: Tensor) -> None:
        self.labels, self.means = class_means(v, y)

    def distance(self, v: Tensor, y: Tensor) -> Tensor:
        """Mean of KL(softmax(μ_y) ‖ softmax(v)) in nats, of features (B, D) of these classes."""
        return kl(self.means[torch.searchsorted(self.labels, y)], v).mean()


def change(maps: nn.ModuleDict, blocks: Sequence[dict[str, nn.Linear]], scale: float) -> list[float]:
    """Norm of what each block's weights change by, ‖s U D‖."""
    found = []
    with torch.no_grad():
        for block in blocks:
            low = [maps[n.replace(".", "/")] for n in block]
            found.append(
                torch.cat([(m.get_parameter("up") @ m.get_parameter("down")).flatten() for m in low]).norm()
            )
        return [scale * float(v) for v in torch.stack(found).tolist()]


def kept(subject: Any, maps: nn.ModuleDict, scale: float, keep: Keep) -> Any:
    """The subject with the maps in its weights, or with them as a PEFT adapter beside what it carries already."""
    module = subject.module
    if keep == "merged":
        fold(module, maps, scale)
        return subject
    found = side_by_side(carried(module), factors_of(maps, scale))
    subject.module = with_adapter(bare(module), found)
    return subject
