"""The conformance kit catches planted broken plugins, each by its own check."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ConfigDict
from torch import nn

from unlearn.data import Batch, Resident, Split, Stream, paced
from unlearn.errors import BadValue
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.metric import Aim, Evidence, Metric
from unlearn.networks import seeded
from unlearn.ops.recipe import SGD
from unlearn.ops.steps import descend, sgd
from unlearn.registry import methods, metrics
from unlearn.runtime import Run
from unlearn.sources import Arrays, Pixels
from unlearn.subject import HasLoss, mode
from unlearn.subjects.classifier import Classifier
from unlearn.testing import (
    check_handle,
    check_method,
    check_subject,
    checks_for,
    handle_checks,
    subject_checks,
)
from unlearn.testing.runs import outcome
from unlearn.testing.tiny import TINY, specimen


class Honest(Method[HasLoss]):
    """Climbs the forget loss and descends the retain loss.

    References:
        None; made for these tests.
    """

    lr: float = knob(0.02, "step size", gt=0, search=(1e-3, 1e-1))
    epochs: int = knob(2, "passes over the forget set", ge=1)
    batch_size: int = knob(4, "examples in a step", ge=1)

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        opt = sgd(subject.module.parameters(), self.lr, 0.0, 0.0)
        with mode(subject.module, train=True):
            for _ in range(self.epochs):
                for f, r in self.pairs(data, run):
                    descend(opt, subject.loss(r, run.rng).mean() - 0.5 * subject.loss(f, run.rng).mean())
        return subject

    def pairs(self, data: Split, run: Run):
        return paced(data.forget, data.retain, self.batch_size, run.rng)


@pytest.fixture
def plant(monkeypatch):
    """Registers a class for the length of a test and gives it the honest docstring unless it has its own."""

    def add(cls, registry, like):
        monkeypatch.setattr(registry, "_live", dict(registry._live))
        if "__doc__" not in cls.__dict__ or cls.__doc__ is None:
            cls.__doc__ = like.__doc__
        return registry.register(f"planted-{cls.__name__.lower()}")(cls)

    return add


def failures(cls, only="mlp"):
    """Names of the failed checks of the class and of its cell on one tiny subject."""
    failed = {}
    for name, check in checks_for(cls):
        base, _, rest = name.partition("[")
        if rest in ("", f"{only}]"):
            try:
                check()
            except AssertionError as err:
                failed[base] = str(err)
    return failed


METHODS = []


def broken(*caught, on="mlp"):
    """Marks a method with the checks that must fail for it, all others passing."""

    def mark(cls):
        METHODS.append(pytest.param(cls, set(caught), on, id=cls.__name__))
        return cls

    return mark


@broken("reads-declared-only")
class UndeclaredRead(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        next(data.validation.batches(4))
        return super().unlearn(subject, data, run)


@broken("reads-declared-only")
class UndeclaredColumn(Honest):
    def reads(self):
        return frozenset({"forget.x", "retain"})


@broken("declared-is-read")
class UnreadDeclaration(Honest):
    uses: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "validation"})


@broken("uses", "declared-is-read")
class UnknownSet(Honest):
    uses: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "tset"})


@broken("globals")
class GlobalTorch(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        self_noise = torch.rand(1)
        assert self_noise < 1
        return super().unlearn(subject, data, run)


@broken("globals")
class GlobalNumpy(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        assert np.random.rand() < 1  # noqa: NPY002 - the defect
        return super().unlearn(subject, data, run)


@broken("inputs")
class TouchedInputs(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        data.forget.inner.source.x.add_(1e-3)
        return done


@broken("changes", "partial-batch")
class NoOp(Honest):
    deterministic: ClassVar[bool] = True

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        list(self.pairs(data, run))
        return subject


@broken("device-and-dtype", "direction", "retain-survives")
class WrongType(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        done.module.double()
        return done


@broken("finite", "batch-of-one", "ragged", "partial-batch", "direction", "retain-survives")
class NotANumber(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        with torch.no_grad():
            next(done.module.parameters()).view(-1)[0] = float("nan")
        return done


@broken("gradients")
class LeavesGradients(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        done.loss(next(data.forget.batches(4))).mean().backward()
        return done


@broken("hooks")
class LeavesHook(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        next(subject.module.children()).register_forward_hook(print_nothing)
        return super().unlearn(subject, data, run)


def print_nothing(module, inputs, output):
    return None


@broken("flags")
class LeavesTrainMode(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        done.module.train()
        return done


@broken("flags")
class LeavesEvalMode(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        done.module.eval()
        return done


@broken("requires-grad")
class LeavesFrozen(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        next(done.module.parameters()).requires_grad_(False)
        return done


@broken("partial-batch")
class DropsLastBatch(Honest):
    def pairs(self, data: Split, run: Run):
        return ((f, r) for f, r in super().pairs(data, run) if len(f) == self.batch_size)


@broken("batch-of-one", "ragged", "other-seed")
class NeedsTwo(Honest):
    def pairs(self, data: Split, run: Run):
        for f, r in super().pairs(data, run):
            assert len(f) == 2 or len(f) > 2, "an example needs a neighbour"
            yield f, r


class _Reseeds(Honest):
    def seed(self):
        return 0

    def pairs(self, data: Split, run: Run):
        return paced(data.forget, data.retain, self.batch_size, torch.Generator().manual_seed(self.seed()))


@broken("other-seed")
class IgnoresSeed(_Reseeds):
    pass


@broken("same-seed", "stream")
class KeepsState(_Reseeds):
    calls: ClassVar[itertools.count] = itertools.count()

    def seed(self):
        return next(self.calls)


@broken("other-seed")
class NotDeterministic(Honest):
    deterministic: ClassVar[bool] = True


@broken("stream")
class LooksAtHandle(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        lr = self.lr * (0.5 if isinstance(data.forget.inner, Stream) else 1)
        return Honest(lr=lr, epochs=self.epochs, batch_size=self.batch_size).unlearn(subject, data, run)


@broken("retain-survives")
class Explodes(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        done = super().unlearn(subject, data, run)
        with torch.no_grad():
            list(done.module.parameters())[-1].add_(torch.tensor([-50.0, 50.0, 0.0, 0.0]))
        return done


@broken("direction")
class Remembers(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        opt = sgd(subject.module.parameters(), self.lr, 0.0, 0.0)
        with mode(subject.module, train=True):
            for f, r in self.pairs(data, run):
                descend(opt, subject.loss(f).mean() + subject.loss(r).mean())
        return subject


@broken("same-verbs")
class ReturnsModule(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        return super().unlearn(subject, data, run).module


@broken("same-verbs")
class ReturnsNothing(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        super().unlearn(subject, data, run)


@broken("original", on="regressor")
class MutatesShared(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        if isinstance(getattr(subject, "mean", None), torch.Tensor):
            subject.mean.add_(1)
        return super().unlearn(subject, data, run)


@broken("exact")
class NotExact(Honest):
    exact: ClassVar[bool] = True


@broken("frozen")
class NotFrozen(Honest):
    model_config = ConfigDict(frozen=False)


@broken("frozen", "refuses")
class TakesAnything(Honest):
    model_config = ConfigDict(extra="ignore")


@broken("refuses")
class ForeignError(Honest):
    def __init__(self, **values):
        if values.get("lr") == 0:
            raise ValueError("no")
        super().__init__(**values)


@broken("documented")
class Undocumented(Honest):
    strength: float = knob(1.0, "", gt=0)


@broken("bounded")
class Unbounded(Honest):
    strength: float = knob(1.0, "how strong")


@broken("defaults", "json")
class BadDefault(Honest):
    strength: float = knob(-1.0, "how strong", gt=0)


@broken("search-range")
class SearchesOutside(Honest):
    strength: float = knob(1.0, "how strong", gt=0, search=(0.0, 2.0))


@broken("presets")
class BadPreset(Honest):
    presets: ClassVar = {"paper": Preset("their scripts", {"no_such_field": 1})}


@broken("summary", "reference")
class NoDocstring(Honest):
    __doc__ = ""


@broken("reference")
class NoReference(Honest):
    """Climbs the forget loss and descends the retain loss."""


@broken("signature")
class WrongSignature(Honest):
    def unlearn(self, subject: HasLoss, data: Split, run: Run, strength: float = 1.0) -> HasLoss:
        return super().unlearn(subject, data, run)


@broken("signature", "protocol-listing")
class NoAnnotations(Honest):
    def unlearn(self, subject, data, run):
        return super().unlearn(subject, data, run)


@pytest.mark.parametrize(("cls", "caught", "on"), METHODS)
def test_broken_methods_are_caught(plant, cls, caught, on):
    outcome.cache_clear()
    failed = failures(plant(cls, methods, Honest), on)
    assert set(failed) == caught, failed


@pytest.mark.parametrize("on", ["mlp", "conv", "regressor", "llama", "gan"])
def test_honest_method_passes(plant, on):
    assert failures(plant(Honest, methods, Honest), on) == {}


def test_crash_is_told_once(plant):
    class Crashes(Honest):
        def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
            raise RuntimeError("planted")

    with pytest.raises(AssertionError) as err:
        check_method(plant(Crashes, methods, Honest))
    lines = str(err.value).splitlines()
    assert len(lines) == 1 + len([t for t in TINY.values() if t.offers(HasLoss)])
    assert all("RuntimeError: planted" in line for line in lines[1:])


def test_wrong_device_is_caught(plant):
    class Elsewhere(Honest):
        def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
            done = super().unlearn(subject, data, run)
            done.module.to("meta")
            return done

    assert "cpu into torch.float32 on meta" in failures(plant(Elsewhere, methods, Honest))["device-and-dtype"]


def test_unregistered_method_is_caught():
    class Stranger(Honest):
        """Climbs the forget loss."""

    with pytest.raises(AssertionError, match="not registered; decorate it with @methods"):
        dict(checks_for(Stranger))["registered"]()


def test_no_plugin_is_refused():
    with pytest.raises(BadValue, match="Linear is no plugin"):
        checks_for(nn.Linear)


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
def test_broken_metrics_are_caught(plant, cls):
    failed = failures(plant(cls, metrics, Plain))
    assert set(failed) == BROKEN_METRICS[cls], failed


def test_honest_metric_passes(plant):
    assert failures(plant(Plain, metrics, Plain)) == {}


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


def failed_names(checks):
    failed = {}
    for name, check in checks:
        try:
            check()
        except AssertionError as err:
            failed[name] = str(err)
    return failed


@pytest.mark.parametrize("cls", BROKEN_HANDLES, ids=lambda c: c.__name__)
def test_broken_handles_are_caught(cls):
    failed = failed_names(handle_checks(cls))
    assert set(failed) == BROKEN_HANDLES[cls], failed
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
    failed = failed_names(subject_checks(functools.partial(made, cls)))
    assert set(failed) >= BROKEN_SUBJECTS[cls] and len(failed) <= len(BROKEN_SUBJECTS[cls]) + 1, failed


def test_sound_subject_passes():
    check_subject(functools.partial(made, Sound))
