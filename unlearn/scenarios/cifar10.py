"""CIFAR-10."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenarios._images import SmallImages

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@scenarios.register("cifar10")
class Cifar10(SmallImages):
    """Photographs of ten kinds of things, 32 x 32 colour pixels; 50,000 to train.

    References:
        Krizhevsky, 2009, Learning multiple layers of features from tiny images, technical report
    """

    stats: ClassVar = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    data: str = knob("uoft-cs/cifar10", "folder or hub name of the data")

    def labels(self, y: Tensor) -> Labels:
        """See `SmallImages.labels`."""
        return Labels(y, CLASSES)
