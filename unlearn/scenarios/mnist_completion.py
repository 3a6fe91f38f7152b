"""Image completion on MNIST: a hole in handwritten digits is filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from unlearn.errors import BadData
from unlearn.knobs import knob
from unlearn.ops.division import divide, limited
from unlearn.ops.loaders import load
from unlearn.ops.pictures import Frame
from unlearn.registry import scenarios
from unlearn.scenario import Part
from unlearn.scenarios._completion import CLASSES, Completion


@scenarios.register("mnist-completion")
class MnistCompletion(Completion):
    """Fills in a hole in handwritten digits, 28 x 28 grey pixels, of MNIST.

    A tenth of the training set is held out as validation data; the test set is halved, to fit attacks and to score. See
    `Completion` for the models and the judges.

    References:
        LeCun et al., 1998, Gradient-based learning applied to document recognition, Proceedings of the IEEE
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    side: ClassVar[int] = 28
    width: ClassVar[int] = 8
    judging: ClassVar[int] = 6

    data: str = knob("ylecun/mnist", "folder or hub name of the data")
    epochs: int = knob(12, "training epochs of original and oracle", ge=1)
    limit: int = knob(4000, "training images to use, stratified; 0 for all", ge=0)
    test_limit: int = knob(4000, "test images to use, stratified; 0 for all", ge=0)

    @property
    def passes(self) -> int:
        """See `Completion.passes`."""
        return self.epochs

    def whole(self) -> tuple[Part, Part, Part, Part]:
        """See `Completion.whole`.

        Raises:
            BadData: If there are no test images, or images of another size.
        """
        found = load(self.data, None, Frame((self.side, self.side), 1))
        if found.test is None:
            raise BadData(f"{self.name}: {self.data} holds no test images; give the official test set too")
        for part in (found.train, found.test):
            shape = tuple(part.source.fetch(torch.zeros(1, dtype=torch.long)).shape[1:])
            if shape != (1, self.side, self.side):
                raise BadData(
                    f"{self.name}: images have shape {(1, self.side, self.side)}, those in {self.data} have {shape}; give the right folder with data=PATH"
                )
        train, validation, fit, test = divide(found.train, limited(found.test, self.test_limit), False)
        made = (limited(train, self.limit), limited(validation, self.limit // 9), fit, test)
        named = [replace(p, labels=replace(p.labels, classes=CLASSES)) for p in made]
        return named[0], named[1], named[2], named[3]
