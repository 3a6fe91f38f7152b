"""The conformance kit catches planted broken attacks, each by its own checks."""

import itertools

import pytest
import torch
from planting import failures, planted

from unlearn.attack import Attack
from unlearn.attacks.quantise import Quantise
from unlearn.knobs import knob
from unlearn.registry import attacks
from unlearn.testing import check_attack


class Plain(Attack):
    """Asks for the same again, a few times, with a little noise in the text states.

    References:
        None; made for these tests.
    """

    tries: int = knob(2, "times", ge=1)

    def budget(self):
        return f"{self.tries} times"

    def attempts(self, case):
        for _ in range(self.tries):
            if len(case.open):
                yield case.open, self.told(case, case.open)

    def told(self, case, rows):
        cond = case.asked(case.ids[rows])
        return cond + 0.1 * torch.randn(cond.shape, generator=case.run.rng)


class TouchesClean(Plain):
    def told(self, case, rows):
        with torch.no_grad():
            next(case.clean.module.parameters()).add_(1e-3)
        return super().told(case, rows)


class LeavesAHook(Plain):
    def told(self, case, rows):
        case.clean.module.register_forward_hook(lambda *_: None)
        return super().told(case, rows)


class TouchesImages(Plain):
    def told(self, case, rows):
        case.real.source.x.add_(1)
        return super().told(case, rows)


CALLS = itertools.count(1)


class IgnoresTheSeed(Plain):
    def told(self, case, rows):
        return super().told(case, rows) + next(CALLS)


class NeverStops(Plain):
    def attempts(self, case):
        rows = torch.arange(len(case.ids))
        yield rows, self.told(case, rows)


class TriesNothing(Plain):
    def attempts(self, case):
        return iter(())


class NeedsTwoPrompts(Plain):
    def told(self, case, rows):
        assert len(case.ids) > 1
        return super().told(case, rows)


class Diverges(Plain):
    def told(self, case, rows):
        return super().told(case, rows) * float("nan")


class SaysNothing(Plain):
    def budget(self):
        return ""


class CountsItself(Plain):
    def measure(self, ev):
        return [s.model_copy(update={"value": 0.0}) for s in super().measure(ev)]


class CountsItsOwnWay(Plain):
    def measure(self, ev):
        return super().measure(ev)[1:]


class TakesMore(Plain):
    def attempts(self, case, luck=1):
        return super().attempts(case)


BROKEN = {
    TouchesClean: {"kept"},
    LeavesAHook: {"kept"},
    TouchesImages: {"kept"},
    IgnoresTheSeed: {"deterministic"},
    NeverStops: {"stops"},
    TriesNothing: {"tries"},
    NeedsTwoPrompts: {"single"},
    Diverges: {"tries"},
    SaysNothing: {"budget"},
    CountsItself: {"signature"},
    CountsItsOwnWay: {"signature", "scores"},
    TakesMore: {"signature"},
}


def test_a_sound_attack_passes():
    with planted(Plain, attacks, Plain) as cls:
        assert failures(cls, "unet") == {}
    check_attack(Quantise)


@pytest.mark.parametrize("cls", BROKEN, ids=lambda c: c.__name__)
def test_each_broken_attack_is_caught(cls):
    with planted(cls, attacks, Plain):
        assert set(failures(cls, "unet")) == BROKEN[cls]


def test_all_failures_are_reported_together():
    with (
        planted(CountsItsOwnWay, attacks, Plain),
        pytest.raises(AssertionError, match="fails 2 checks") as caught,
    ):
        check_attack(CountsItsOwnWay)
    assert "success is counted in one way" in str(caught.value)
