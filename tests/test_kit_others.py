"""The conformance kit catches planted broken metrics, handles and subjects, each by its own checks."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from planting import failed, failures, planted
from torch import nn

from unlearn.data import Batch, Resident
from unlearn.metric import Aim, Evidence, Metric
from unlearn.networks import seeded
from unlearn.ops.recipe import SGD
from unlearn.registry import metrics
from unlearn.sources import Arrays, Pixels
from unlearn.subjects.classifier import Classifier
from unlearn.testing import check_handle, check_subject, handle_checks, subject_checks
from unlearn.testing.tiny import specimen


class Plain(Metric):
    """Mean accuracy on the forget set.

    References:
        None; made for these tests.
    """

    def measure(self, ev: Evidence):
        return [ev.level("plain/forget", lambda who: self.value(ev, who), Aim.MATCH, metric=self.name)]

    def value(self, ev, who):
        return ev.correct(who, "forget").double().mean()


class MutatesOutputs(Plain):
    def value(self, ev, who):
        ev.outputs(who, "forget").add_(1e-3)
        return super().value(ev, who)


class MutatesModel(Plain):
    def value(self, ev, who):
        value = super().value(ev, who)
        with torch.no_grad():
            next(ev.subjects[who].module.parameters()).add_(1e-3)
        return value


class WrongGap(Plain):
    def value(self, ev, who):
        return super().value(ev, who) + 0.1 * (who == "oracle")


class WrongOriginal(Plain):
    def value(self, ev, who):
        return super().value(ev, who) + 0.1 * (who == "original")


class GlobalDraw(Plain):
    def value(self, ev, who):
        return super().value(ev, who) + 0 * torch.rand(())


class Remembering(Plain):
    calls: ClassVar[itertools.count] = itertools.count()

    def measure(self, ev):
        shift = next(self.calls)
        return [s.model_copy(update={"value": s.value + shift, "original": s.original + shift, "reference": None})
                for s in super().measure(ev)]  # fmt: skip


class OrderMatters(Plain):
    def value(self, ev, who):
        losses = ev.losses(who, "retain").double()
        return (losses * torch.linspace(1, 0, len(losses))).sum()


class NotFinite(Plain):
    def measure(self, ev):
        return [s.model_copy(update={"value": float("inf")}) for s in super().measure(ev)]


class OneName(Plain):
    def measure(self, ev):
        return super().measure(ev) * 2


class NeedsOracle(Plain):
    def measure(self, ev):
        return [s.model_copy(update={"note": ""}) for s in super().measure(ev)]


class LeavesMode(Plain):
    def value(self, ev, who):
        value = super().value(ev, who)
        ev.subjects[who].module.train()
        return value


BROKEN_METRICS = {
    MutatesOutputs: {"evidence"},
    MutatesModel: {"evidence"},
    LeavesMode: {"evidence"},
    WrongGap: {"oracle-gap"},
    WrongOriginal: {"original"},
    GlobalDraw: {"globals"},
    Remembering: {"pure"},
    OrderMatters: {"permutation"},
    NotFinite: {"finite"},
    OneName: {"scores"},
    NeedsOracle: {"no-oracle"},
}


@pytest.mark.parametrize("cls", BROKEN_METRICS, ids=lambda c: c.__name__)
def test_broken_metrics_are_caught(cls):
    with planted(cls, metrics, Plain):
        found = failures(cls)
    assert set(found) == BROKEN_METRICS[cls], found


def test_honest_metric_passes():
    with planted(Plain, metrics, Plain):
        assert failures(Plain) == {}


class Wrapped:
    """A handle around another one, to be broken."""

    def __init__(self):
        pixels = torch.randint(
            0, 256, (11, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        transform = Pixels((0.5,), (0.25,), pad=1, flip=True)
        self.inner = Resident(Arrays(pixels, torch.arange(11)), transform)

    def __len__(self):
        return len(self.inner)

    def batches(self, size, rng=None, *, augment=False):
        return self.inner.batches(size, rng, augment=augment)

    def only(self, ids):
        return self.inner.only(ids)


class OnlyIsAll(Wrapped):
    def only(self, ids):
        return self.inner


class Reshuffles(Wrapped):
    passes = itertools.count()

    def batches(self, size, rng=None, *, augment=False):
        return super().batches(size, rng or torch.Generator().manual_seed(next(self.passes)), augment=augment)


class NeverShuffles(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        return super().batches(size)


class DropsRest(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        return (b for b in super().batches(size, rng, augment=augment) if len(b) == size)


class Twice(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        yield from super().batches(size, rng, augment=augment)
        yield Batch(*(t[:1] for t in self._first()))

    def _first(self):
        batch = next(self.inner.batches(1))
        return batch.x, batch.y, batch.index


class AlwaysAugments(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        return super().batches(size, rng, augment=True)


class AugmentsAnyway(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        noise = torch.Generator().manual_seed(0) if augment else None
        return (replace(b, x=self.inner.transform(self.inner.source.fetch(b.index), noise))
                for b in super().batches(size, rng))  # fmt: skip


class ForgetsIds(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        start = 0
        for b in super().batches(size, rng, augment=augment):
            yield replace(b, index=torch.arange(start, start + len(b)))
            start += len(b)


class DrawsGlobally(Wrapped):
    def batches(self, size, rng=None, *, augment=False):
        torch.rand(1)
        return super().batches(size, rng, augment=augment)


class OnePosition(Wrapped):
    def __init__(self):
        super().__init__()
        self.queue = []

    def batches(self, size, rng=None, *, augment=False):
        self.queue = list(super().batches(size, rng, augment=augment))
        while self.queue:
            yield self.queue.pop(0)


BROKEN_HANDLES = {
    OnlyIsAll: {"only"},
    Reshuffles: {"order", "augments-with-generator-only", "independent-passes"},
    NeverShuffles: {"shuffles"},
    DropsRest: {
        "every-row-once",
        "ragged",
        "ids",
        "order",
        "augments-with-generator-only",
    },
    Twice: {"every-row-once", "ragged"},
    AlwaysAugments: {"augments-with-generator-only", "ids"},
    AugmentsAnyway: {"augments-with-generator-only"},
    ForgetsIds: {"shuffles", "ids", "augments-with-generator-only"},
    DrawsGlobally: {"globals"},
    OnePosition: {"independent-passes"},
}


@pytest.mark.parametrize("cls", BROKEN_HANDLES, ids=lambda c: c.__name__)
def test_broken_handles_are_caught(cls):
    found = failed(handle_checks(cls))
    assert set(found) == BROKEN_HANDLES[cls], found
    with pytest.raises(AssertionError, match="the handle fails"):
        check_handle(cls)


def test_honest_handle_passes():
    check_handle(Wrapped)


def small_net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@dataclass(slots=True)
class Sound(Classifier):
    pass


class SharesWeights(Sound):
    def clone(self):
        return replace(self, _layer=None)


class MeanLoss(Sound):
    def loss(self, batch, rng=None):
        return Classifier.loss(self, batch).mean()


class NeighbourLoss(Sound):
    def loss(self, batch, rng=None):
        values = Classifier.loss(self, batch)
        return values + values.mean()


class KnowingRelabel(Sound):
    def relabeled_loss(self, batch, rng):
        return self.loss(batch) + 0 * torch.rand((), generator=rng)


class FixedRelabel(Sound):
    def relabeled_loss(self, batch, rng):
        return Classifier.relabeled_loss(self, batch, torch.Generator().manual_seed(0))


class FlatOutputs(Sound):
    def outputs(self, batch):
        return Classifier.outputs(self, batch).flatten()

    def loss(self, batch, rng=None):
        return nn.functional.cross_entropy(self.module(batch.x), batch.y, reduction="none")

    def relabeled_loss(self, batch, rng):
        wrong = (batch.y + torch.randint(1, 4, batch.y.shape, generator=rng)) % 4
        return nn.functional.cross_entropy(self.module(batch.x), wrong, reduction="none")


class OldFresh(Sound):
    def fresh(self, rng):
        return self.clone()


class DirtyFit(Sound):
    def fit(self, handle, run):
        Classifier.fit(self, handle, run)
        self.loss(next(handle.batches(2))).mean().backward()


class CountsCalls(Sound):
    def features_and_outputs(self, batch):
        features, out = Classifier.features_and_outputs(self, batch)
        with torch.no_grad():
            next(self.module.parameters()).add_(1e-3)
        return features, out


BROKEN_SUBJECTS = {
    SharesWeights: {"clone"},
    MeanLoss: {"loss", "loss-alone"},
    NeighbourLoss: {"loss-alone"},
    KnowingRelabel: {"relabeled"},
    FixedRelabel: {"relabeled"},
    FlatOutputs: {"outputs", "classifies", "features"},
    OldFresh: {"fresh"},
    DirtyFit: {"fit"},
    CountsCalls: {"verbs-leave-no-trace", "features"},
}


def made(cls):
    net = seeded(small_net, torch.Generator().manual_seed(0))
    subject = cls(net, 4, SGD(epochs=1, batch_size=8), small_net)
    return subject, specimen("mlp").sets["retain"]


@pytest.mark.parametrize("cls", BROKEN_SUBJECTS, ids=lambda c: c.__name__)
def test_broken_subjects_are_caught(cls):
    found = failed(subject_checks(functools.partial(made, cls)))
    assert set(found) == BROKEN_SUBJECTS[cls], found


def test_sound_subject_passes():
    check_subject(functools.partial(made, Sound))
