"""The kit catches planted denoisers whose adapters or whose attention break their promises."""

from dataclasses import dataclass

import pytest
import torch
from planting import failed

from unlearn.ops.low_rank import applied
from unlearn.subjects.text_to_image import TextToImage
from unlearn.testing import subject_checks
from unlearn.testing.tiny import specimen


class Deaf(TextToImage):
    """Its adapters do nothing."""

    def predict(self, z, t, cond):
        return TextToImage.predict(self.bare(), z, t, cond[0] if self.adapters() else cond)


class Doubled(TextToImage):
    """Its adapters act twice in a prediction."""

    def predict(self, z, t, cond):
        if not self.adapters():
            return TextToImage.predict(self, z, t, cond)
        with applied(self.module, self.adapters()[0].maps, cond[1][:, 0]):
            return TextToImage.predict(self, z, t, cond)


class Forgetful(TextToImage):
    """It holds one adapter at a time."""

    def adapted(self, adapter):
        return TextToImage.adapted(self.bare(), adapter)


class Shared(TextToImage):
    """Its adapters go into the module of the one that was asked."""

    def adapted(self, adapter):
        self.module = TextToImage.adapted(self, adapter).module
        return self


class Clinging(TextToImage):
    """It cannot be had without its adapters."""

    def bare(self):
        return self


class Logits(TextToImage):
    """Its attention is not normalised."""

    def attention(self, z, t, cond):
        return [a.log() for a in TextToImage.attention(self, z, t, cond)]


class Cut(TextToImage):
    """Its attention has no gradient."""

    @torch.no_grad()
    def attention(self, z, t, cond):
        return TextToImage.attention(self, z, t, cond)


class Stuck(TextToImage):
    """What shows its attention stays."""

    def attention(self, z, t, cond):
        found = TextToImage.attention(self, z, t, cond)
        with torch.no_grad():
            next(self.denoiser.parameters()).add_(0.1)
        return found


@dataclass
class Case:
    """A planted class, the check that must catch it, and a part of what is said."""

    cls: type
    check: str
    said: str


CASES = [
    Case(Deaf, "adapts", "an adapter of strength 1 does not change predict"),
    Case(Doubled, "adapts", "two adapters of strength 1/2 differ in predict"),
    Case(Forgetful, "adapts", "loses an adapter"),
    Case(Shared, "adapts", "changes the subject that it is called on"),
    Case(Clinging, "adapts", "bare differs"),
    Case(Logits, "attends", "does not sum to 1"),
    Case(Cut, "attends", "no gradient in any weight"),
    Case(Stuck, "attends", "changes what the model predicts afterwards"),
]


def checks(cls):
    def make():
        spec = specimen("unet").copy()
        fields = {n: getattr(spec.subject, n) for n in TextToImage.__dataclass_fields__}
        return cls(**fields), spec.sets["retain"]

    return ((n, c) for n, c in subject_checks(make) if n in ("adapts", "attends"))


def test_a_sound_one_passes():
    assert not failed(checks(TextToImage))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.cls.__name__)
def test_a_planted_fault_is_caught_by_its_check(case):
    found = failed(checks(case.cls))
    assert list(found) == [case.check] and case.said in found[case.check]
