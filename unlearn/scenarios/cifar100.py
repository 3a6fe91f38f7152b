"""CIFAR-100."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from unlearn.errors import BadData
from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenarios._images import SmallImages

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
COARSE = tuple(SUPERCLASSES)
FINE = tuple(sorted(name for members in SUPERCLASSES.values() for name in members.split()))
COARSE_OF_FINE = torch.tensor(
    [next(i for i, c in enumerate(COARSE) if f in SUPERCLASSES[c].split()) for f in FINE]
)


@scenarios.register("cifar100")
class Cifar100(SmallImages):
    """Photographs of a hundred kinds of things in twenty super-classes, 32 x 32 colour pixels.

    50,000 images to train and 10,000 to test. With `predict=coarse` the model tells the super-classes apart
    and a request such as `subclass=rocket` forgets one of the five kinds inside one of them.

    References:
        Krizhevsky, 2009, Learning multiple layers of features from tiny images, technical report
    """

    default_request: ClassVar[str] = "class=rocket"
    stats: ClassVar = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    data: str = knob("uoft-cs/cifar100", "folder or hub name of the data")
    predict: Literal["fine", "coarse"] = knob("fine", "tell 100 kinds apart, or 20 super-classes")

    def labels(self, y: Tensor) -> Labels:
        """See `SmallImages.labels`."""
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(FINE):
            raise BadData(
                f"cifar100: labels reach from {y.min()} to {y.max()}; they are the fine classes 0 to 99"
            )
        if self.predict == "fine":
            return Labels(y, FINE, fine=y, fine_classes=FINE)
        return Labels(COARSE_OF_FINE[y], COARSE, fine=y, fine_classes=FINE)
