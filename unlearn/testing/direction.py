"""In which direction a method moves a trained tiny subject: away from the forget set, not off the cliff."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from unlearn.data import Handle
from unlearn.method import Method
from unlearn.subject import Embeds, HasLoss, Subject, mode
from unlearn.testing.runs import outcome
from unlearn.testing.tiny import Tiny, specimen
from unlearn.testing.verdicts import demand

EXPLODED = 3.0
"""Retain loss, in units of an untrained model's, beyond which a method has destroyed the model."""


def check_direction(cls: type[Method[Any]], tiny: Tiny) -> None:
    """Forgetting shows: the mean forget loss rises, or forget features move further than retain features.

    A whole class (or the largest targets) is forgotten. A loss that stays within one part in a thousand
    counts as not risen.
    """
    spec, done = specimen(tiny.name), cast(Any, outcome(cls, tiny.name).subject)
    forget, retain = spec.sets["forget"], spec.sets["retain"]
    before, after = mean_loss(spec.subject, forget), mean_loss(done, forget)
    if after > before * 1.001:
        return
    near = moved(spec.subject, done, retain)
    far = moved(spec.subject, done, forget)
    demand(
        far > near,
        f"{cls.__name__} does not forget on {tiny.name}: the forget loss goes from {before:.4f} to {after:.4f} and forget features move by {far:.4f}, retain features by {near:.4f}; choose other defaults, or declare expected_failures = {{'class': why}}",
    )


def check_retain(cls: type[Method[Any]], tiny: Tiny) -> None:
    """The model survives: the mean retain loss stays within a few times that of an untrained model."""
    spec, done = specimen(tiny.name), cast(Any, outcome(cls, tiny.name).subject)
    retain = spec.sets["retain"]
    untrained = mean_loss(spec.subject.fresh(torch.Generator().manual_seed(0)), retain)
    after = mean_loss(done, retain)
    demand(
        after <= EXPLODED * untrained,
        f"{cls.__name__} destroys the model on {tiny.name}: its retain loss is {after:.4g}, an untrained model's {untrained:.4g}; lower its default step size or protect the retain set",
    )


@torch.no_grad()
def mean_loss(subject: HasLoss, handle: Handle) -> float:
    """Mean training loss on a set, in evaluation mode."""
    with mode(subject.module, train=False):
        return float(torch.cat([subject.loss(b) for b in handle.batches(64)]).mean())


def moved(before: Subject, after: Subject, handle: Handle) -> float:
    """Mean distance that the features of a set moved, in units of their mean length; 0 without features."""
    if not (isinstance(before, Embeds) and isinstance(after, Embeds)):
        return 0.0
    old, new = _features(before, handle), _features(after, handle)
    return float((new - old).norm(dim=1).mean() / old.norm(dim=1).mean().clamp_min(1e-12))


@torch.no_grad()
def _features(subject: Embeds, handle: Handle) -> Tensor:
    with mode(subject.module, train=False):
        return torch.cat([subject.features(b) for b in handle.batches(64)])
