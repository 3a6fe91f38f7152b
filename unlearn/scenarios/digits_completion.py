"""The embedded scenario of image completion: a hole in handwritten digits is filled in."""

from __future__ import annotations

from typing import ClassVar

from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.scenario import Part
from unlearn.scenarios._completion import Completion
from unlearn.scenarios.digits import Digits


@scenarios.register("digits-completion")
class DigitsCompletion(Completion):
    """Fills in a hole in real scans of handwritten digits, 8 x 8 grey pixels, shipped inside scikit-learn.

    Data and their division are those of `digits`. See `Completion` for the models and the judges.

    References:
        Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits, UCI repository
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    side: ClassVar[int] = 8
    epochs: int = knob(50, "training epochs of original and oracle", ge=1)

    @property
    def passes(self) -> int:
        """See `Completion.passes`."""
        return self.epochs

    def whole(self) -> tuple[Part, Part, Part, Part]:
        """See `Completion.whole`."""
        made = Digits(request=self.request).clean()
        return made.train, made.validation, made.fit, made.test
