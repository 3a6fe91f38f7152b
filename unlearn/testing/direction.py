"""In which direction a method moves a trained tiny subject: away from the forget set, not off the cliff."""

from __future__ import annotations

from typing import Any, cast

import torch

from unlearn.data import Handle
from unlearn.method import Method
from unlearn.subject import HasLoss, mode
from unlearn.testing.runs import outcome
from unlearn.testing.tiny import Tiny, specimen
from unlearn.testing.verdicts import demand

SLACK = 0.99
"""Share of the forget loss that must remain."""
EXPLODED = 3.0
"""Retain loss, in units of an untrained model's, beyond which a method has destroyed the model."""


def check_direction(cls: type[Method[Any]], tiny: Tiny) -> None:
    """Forgetting does not make the model better at what it forgets: the mean forget loss does not fall.

    A whole class (or the largest targets) is forgotten. Defaults are meant for sets of thousands and take
    few steps here, so the loss need not rise by much; a fall within one part in a hundred is tolerated.
    """
    spec, done = specimen(tiny.name), cast(Any, outcome(cls, tiny.name).subject)
    before, after = (mean_loss(s, spec.sets["forget"]) for s in (spec.subject, done))
    demand(
        after >= SLACK * before,
        f"{cls.__name__} lowers the forget loss on {tiny.name} from {before:.4g} to {after:.4g}; choose other defaults, or declare expected_failures = {{'class': why}}",
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
