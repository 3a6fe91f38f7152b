"""Fashion-MNIST."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenarios._images import SmallImages

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@scenarios.register("fashion-mnist")
class FashionMnist(SmallImages):
    """Pictures of clothes, 28 x 28 grey pixels, 60,000 to train and 10,000 to test.

    References:
        Xiao et al., 2017, Fashion-MNIST: a novel image dataset for benchmarking, arXiv:1708.07747
    """

    side: ClassVar[int] = 28
    channels: ClassVar[int] = 1
    stats: ClassVar = ((0.2860,), (0.3530,))
    pad: ClassVar[int] = 2
    data: str = knob("zalando-datasets/fashion_mnist", "folder or hub name of the data")
    network: Literal["resnet18", "resnet20", "resnet56", "resnet8", "resnet9"] = knob(
        "resnet8", "architecture"
    )
    epochs: int = knob(10, "training epochs of original and oracle", ge=1)

    def labels(self, y: Tensor) -> Labels:
        """See `SmallImages.labels`."""
        return Labels(y, CLASSES)
