"""MNIST."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenarios._images import SmallImages

CLASSES = tuple("0123456789")


@scenarios.register("mnist")
class Mnist(SmallImages):
    """Handwritten digits, 28 x 28 grey pixels, 60,000 to train and 10,000 to test.

    References:
        LeCun et al., 1998, Gradient-based learning applied to document recognition, Proceedings of the IEEE
    """

    side: ClassVar[int] = 28
    channels: ClassVar[int] = 1
    stats: ClassVar = ((0.1307,), (0.3081,))
    pad: ClassVar[int] = 2
    flip: ClassVar[bool] = False
    data: str = knob("ylecun/mnist", "folder or hub name of the data")
    network: Literal["resnet18", "resnet20", "resnet56", "resnet8", "resnet9"] = knob(
        "resnet8", "architecture"
    )
    epochs: int = knob(5, "training epochs of original and oracle", ge=1)

    def labels(self, y: Tensor) -> Labels:
        """See `SmallImages.labels`."""
        return Labels(y, CLASSES)
