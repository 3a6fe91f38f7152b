"""Tiny subjects that were trained so that examples can be deleted from them; see `unlearn.testing.tiny`."""

from __future__ import annotations

import torch
from torch import Generator, nn

from unlearn.data import Resident
from unlearn.networks import seeded
from unlearn.ops.orders import rotations
from unlearn.ops.recipe import SGD
from unlearn.ops.staged import Plan
from unlearn.runtime import Run
from unlearn.subjects.classifier import Classifier
from unlearn.subjects.recorded_classifier import RecordedClassifier
from unlearn.subjects.sliced_classifier import SlicedClassifier
from unlearn.testing.tiny import CLASSES, CPU, Specimen, blobs

SETS = ("validation", "fit", "test", "surrogate")


def sliced() -> Specimen:
    """Two shards of two slices in two orders, a group of layers for each stage; some of one slice is to be forgotten."""
    train = Resident(blobs((6,), (12,) * CLASSES, _rng(0)))
    subject = SlicedClassifier.of(
        _start(SGD(epochs=6, lr=0.1, batch_size=16)), Plan(2, rotations(2, 2), True), _rng(0)
    )
    subject.fit(train, Run(0, CPU))
    return _specimen(subject, train, subject.slices()[1][:7])


def recorded() -> Specimen:
    """A classifier with a record of two epochs; seven examples of one class are to be forgotten."""
    train = Resident(blobs((6,), (7, 12, 12, 12), _rng(0)))
    subject = RecordedClassifier.of(_start(SGD(epochs=2, lr=0.1, batch_size=4)))
    subject.fit(train, Run(0, CPU))
    return _specimen(subject, train, torch.arange(7))


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def _start(recipe: SGD) -> Classifier:
    return Classifier(seeded(_net, _rng(0)), CLASSES, recipe, _net)


def _specimen(
    subject: SlicedClassifier | RecordedClassifier, train: Resident, forget: torch.Tensor
) -> Specimen:
    subject.module.eval()
    kept = train.rows[~torch.isin(train.rows, forget)]
    held = {n: Resident(blobs((6,), (4,) * CLASSES, _rng(k))) for k, n in enumerate(SETS, 1)}
    return Specimen(subject, {"forget": train.take(forget), "retain": train.take(kept), **held})


def _rng(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


MADE = {"sliced": sliced, "recorded": recorded}
"""How each of them is made, by name."""
