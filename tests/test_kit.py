"""The conformance kit catches planted broken methods, each by its own checks and by no other."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from planting import failures, planted
from pydantic import ConfigDict
from torch import nn

from unlearn.data import Split, Stream, paced
from unlearn.errors import BadValue, Mismatch
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.steps import descend, sgd
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import HasLoss, mode
from unlearn.testing import check_method, checks_for
from unlearn.testing.runs import outcome
from unlearn.testing.tiny import fitting


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


@broken("uses")
class WantsUndeclared(Honest):
    def wants(self):
        return "half-in", 4


@broken("declared-is-read")
class UnreadPool(Honest):
    uses: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "pool"})

    def wants(self):
        return "retrained", 1


@broken("reads-declared-only", "uses")
class UndeclaredPool(Honest):
    def wants(self):
        return "half-in", 2

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        data.pool.inside()
        return super().unlearn(subject, data, run)


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
        data.forget._inner.source.x.add_(1e-3)
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
        next(subject.module.children()).register_forward_hook(look)
        return super().unlearn(subject, data, run)


def look(module, inputs, output):
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
        lr = self.lr * (0.5 if isinstance(data.forget._inner, Stream) else 1)
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
def test_broken_methods_are_caught(cls, caught, on):
    outcome.cache_clear()
    with planted(cls, methods, Honest):
        found = failures(cls, on)
    assert set(found) == caught, found


@pytest.mark.parametrize("on", ["mlp", "conv", "regressor", "llama", "gan"])
def test_honest_method_passes(on):
    with planted(Honest, methods, Honest):
        assert failures(Honest, on) == {}


def test_crash_is_told_once():
    class Crashes(Honest):
        def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
            raise RuntimeError("planted")

    with planted(Crashes, methods, Honest), pytest.raises(AssertionError) as err:
        check_method(Crashes)
    lines = str(err.value).splitlines()
    assert len(lines) == 1 + len(fitting(HasLoss))
    assert all("RuntimeError: planted" in line for line in lines[1:])


class Choosy(Honest):
    """Climbs the forget loss of networks with convolutions.

    References:
        None; made for these tests.
    """

    said: ClassVar[str] = (
        "choosy works on convolutions and this network has none; use finetune, which needs none"
    )

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        if not any(isinstance(m, nn.Conv2d) for m in subject.module.modules()):
            raise Mismatch(self.said)
        return super().unlearn(subject, data, run)


def test_a_network_may_be_refused_in_one_clear_line_but_not_every_one():
    with planted(Choosy, methods, Honest):
        assert failures(Choosy, "mlp") == {} == failures(Choosy, "conv")

    class Curt(Choosy):
        said: ClassVar[str] = "no convolutions"

    with planted(Curt, methods, Honest):
        found = failures(Curt, "mlp")
        assert "say in one line what it needs" in found["runs"] and "accepts-some" not in found

    class Never(Honest):
        def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
            raise Mismatch(Choosy.said)

    with planted(Never, methods, Honest):
        found = failures(Never, "mlp")
    assert set(found) == {"accepts-some"}
    assert "refuses every tiny subject that offers HasLoss: choosy works on" in found["accepts-some"]


def test_wrong_device_is_caught():
    class Elsewhere(Honest):
        def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
            done = super().unlearn(subject, data, run)
            done.module.to("meta")
            return done

    with planted(Elsewhere, methods, Honest):
        assert "cpu into torch.float32 on meta" in failures(Elsewhere)["device-and-dtype"]


def test_unregistered_method_is_caught():
    class Stranger(Honest):
        """Climbs the forget loss."""

    with pytest.raises(AssertionError, match="not registered; decorate it with @methods"):
        dict(checks_for(Stranger))["registered"]()


def test_no_plugin_is_refused():
    with pytest.raises(BadValue, match="Linear is no plugin"):
        checks_for(nn.Linear)
