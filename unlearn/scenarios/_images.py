"""What the scenarios on small images share: their fields, their data, their models, their recipe."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from unlearn.errors import BadData, BadValue
from unlearn.knobs import knob
from unlearn.networks import NETWORKS, seeded
from unlearn.ops.division import divide, limited
from unlearn.ops.fast import Fast
from unlearn.ops.given_oracle import GIVEN, given_oracle
from unlearn.ops.loaders import Loaded, load
from unlearn.ops.photos import photo_patches
from unlearn.ops.pictures import Frame
from unlearn.ops.recipe import SGD
from unlearn.ops.tables import Columns
from unlearn.ops.weights import load_into
from unlearn.provenance import digest
from unlearn.request import Labels, Request
from unlearn.scenario import Material, Part
from unlearn.scenarios._deletable import Deletable
from unlearn.scenarios._spoilt import Spoilable
from unlearn.sources import Pixels, Relabeled, Source
from unlearn.subject import Subject
from unlearn.subjects.classifier import Classifier

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_GREY = ((0.449,), (0.226,))  # means over the three channels
SURROGATES = 2000


class SmallImages(Spoilable, Deletable):
    """A data set of small images of one size with an official test set.

    The original and the oracle are trained by one recipe: SGD with Nesterov momentum 0.9, one-cycle learning
    rate up to `lr`, weight decay 5e-4, batches of 128, random crops (and flips where the set is not of
    characters); or `unlearn.ops.fast.Fast` with the same crops and flips. Validation data are a tenth of the training set; the test set is halved, to fit attacks and to
    score. With `weights` somebody else's model is the original: it saw the whole training set, so validation
    data come out of the test set, and as its recipe is unknown there is no oracle, and nothing can be spoilt.
    """

    modules: ClassVar[tuple[str, ...]] = (
        "unlearn.subjects.classifier",
        "unlearn.networks",
        "unlearn.ops.spoiling",
    )
    given_oracle: ClassVar[str] = GIVEN
    side: ClassVar[int] = 32
    channels: ClassVar[int] = 3
    stats: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = IMAGENET
    pad: ClassVar[int] = 4
    flip: ClassVar[bool] = True

    data: str = knob("", "folder or hub name of the data")
    network: Literal["resnet18", "resnet20", "resnet56", "resnet8", "resnet9"] = knob(
        "resnet18", "architecture"
    )
    weights: str = knob("", "file with the weights of a pretrained original; empty to train it")
    retrained: str = knob("", "with weights, a file with those of one retrained without what is forgotten")
    normalise: Literal["own", "imagenet"] = knob("own", "whose channel means and deviations to use")
    training: Literal["sgd", "fast"] = knob("sgd", "recipe of original and oracle; fast is for many models")
    epochs: int = knob(30, "training epochs of original and oracle", ge=1)
    lr: float = knob(
        0.1, "peak learning rate of original and oracle; with fast, for 128 examples in a step", gt=0
    )
    batch: int = knob(0, "examples in a training step; 0 for the recipe's own number", ge=0)
    limit: int = knob(0, "training images to use, stratified; 0 for all", ge=0)
    test_limit: int = knob(0, "test images to use, stratified; 0 for all", ge=0)
    surrogate: str = knob("", "folder of out-of-distribution images; empty for patches of two photographs")

    @abstractmethod
    def labels(self, y: Tensor) -> Labels:
        """Labels of examples with these class ids in the data set, with shape (N,)."""

    def clean(self) -> Material:
        """See `Spoilable.clean`.

        Raises:
            BadValue: If something is to be spoilt for a model that was trained before.
        """
        if self.weights and self.spoils:
            raise BadValue(
                f"{self.name}: the model in {self.weights} was trained on clean data; leave out weights to train one on spoilt data"
            )
        frame = Frame((self.side, self.side), self.channels)
        found = load(self.data, Columns(), frame)
        train, test = self._checked(found)
        train, validation, fit, score = divide(train, limited(test, self.test_limit), bool(self.weights))
        if not self.weights:
            validation = limited(validation, self.limit // 9)
        imagenet = IMAGENET if self.channels == 3 else IMAGENET_GREY
        mean, std = self.stats if self.normalise == "own" else imagenet
        return Material(
            limited(train, self.limit),
            validation,
            fit,
            score,
            digest([found.content, self.side, self.channels]),
            Pixels(mean, std, self.pad, self.flip),
            self._surrogates(frame),
        )

    def subject(self, rng: Generator) -> Any:
        """See `Scenario.subject`.

        Raises:
            BadValue: If a model that was trained before is to be one from which examples can be deleted.
        """
        if self.weights and self.deletable:
            raise BadValue(
                f"{self.name}: the model in {self.weights} learned all training images at once, so it was not trained with deletable={self.deletable}; leave out weights to train one that was, or start from a model that never saw them with custom/{self.request},model=FILE.py:build,deletable={self.deletable}"
            )
        recipe = None if self.weights else self._recipe()
        start = Classifier(seeded(self._network, rng), self._classes, recipe=recipe, build=self._network)
        return self.owned(start, rng)

    def oracle(self, request: Request) -> Subject | None:
        """See `Scenario.oracle`."""
        if not self.retrained:
            return None
        return given_oracle(self.original() or self.subject(torch.Generator()), self.retrained)

    def original(self) -> Classifier | None:
        """See `Scenario.original`."""
        if not self.weights:
            return None
        module = self._network()
        load_into(module, Path(self.weights).expanduser())
        return Classifier(module, self._classes, build=self._network)

    @property
    def _classes(self) -> int:
        return len(self.labels(torch.zeros(0, dtype=torch.long)).classes)

    def _recipe(self) -> SGD | Fast:
        if self.training == "fast":
            return Fast(epochs=self.epochs, lr=self.lr, batch_size=self.batch or 512)
        return SGD(epochs=self.epochs, lr=self.lr, batch_size=self.batch or 128, augment=True)

    def _network(self) -> nn.Module:
        return NETWORKS[self.network](self.channels, self._classes)

    def _checked(self, found: Loaded) -> tuple[Part, Part]:
        """Training and test images of the right shape, with this set's labels."""
        if found.test is None:
            raise BadData(f"{self.name}: {self.data} holds no test images; give the official test set too")
        want = (self.channels, self.side, self.side)
        for part in (found.train, found.test):
            shape = tuple(part.source.fetch(torch.zeros(1, dtype=torch.long)).shape[1:])
            if shape != want:
                raise BadData(
                    f"{self.name}: images have shape {want}, those in {self.data} have {shape}; give the right folder with data=PATH"
                )
        return self._labelled(found.train), self._labelled(found.test)

    def _labelled(self, part: Part) -> Part:
        """A part with this set's labels, also where handles read them."""
        labels = self.labels(part.labels.y)
        source = part.source if labels.y is part.labels.y else Relabeled(part.source, labels.y)
        return replace(part, source=source, labels=labels)

    def _surrogates(self, frame: Frame) -> Source:
        if not self.surrogate:
            return photo_patches(SURROGATES, self.side, self.channels)
        return load(self.surrogate, Columns(), frame).train.source
