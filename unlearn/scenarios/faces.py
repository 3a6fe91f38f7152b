"""Faces of forty people."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Generator, Tensor

from unlearn.errors import BadData, BadValue
from unlearn.knobs import knob
from unlearn.ops.division import limited, pick
from unlearn.ops.loaders import load
from unlearn.ops.pictures import Frame
from unlearn.ops.tables import Columns
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenario import Material, stratified
from unlearn.scenarios._images import SmallImages
from unlearn.sources import Pixels

PEOPLE = tuple(sorted(f"s{k}" for k in range(1, 41)))
SHARES = (0.6, 0.1, 0.1, 0.2)
"""Of each person's photographs: to train, to validate, to fit attacks, to score."""


@scenarios.register("faces")
class Faces(SmallImages):
    """Photographs of forty people, ten of each, scaled to 32 x 32 grey pixels: forget one identity.

    The folder holds one folder for each person, s1 to s40. There is no official test set: of each person's photographs
    six train, one validates, one fits attacks, two score, always the same ones. The recipe is that of `SmallImages`.

    References:
        Samaria et al., 1994, Parameterisation of a stochastic model for human face identification, IEEE
    """

    default_request: ClassVar[str] = "class=s1"
    side: ClassVar[int] = 32
    channels: ClassVar[int] = 1
    stats: ClassVar = ((0.4439,), (0.1872,))
    pad: ClassVar[int] = 2
    data: str = knob("faces", "folder of the data")
    network: Literal["resnet18", "resnet20", "resnet56", "resnet8", "resnet9"] = knob(
        "resnet8", "architecture"
    )
    epochs: int = knob(60, "training epochs of original and oracle", ge=1)
    batch: int = knob(32, "examples in a training step; 0 for the recipe's own number", ge=0)

    def labels(self, y: Tensor) -> Labels:
        """See `SmallImages.labels`."""
        return Labels(y, PEOPLE)

    def clean(self) -> Material:
        """See `Spoilable.clean`.

        Raises:
            BadData: If the folder is not that of the forty people.
            BadValue: If weights are given: nobody else's model was trained on this part of the photographs.
        """
        if self.weights:
            raise BadValue(
                "faces: there is no official training set that given weights could belong to; leave out weights"
            )
        frame = Frame((self.side, self.side), self.channels)
        found = load(self.data, Columns(), frame)
        if found.train.labels.classes != PEOPLE:
            raise BadData(
                f"faces: {self.data} holds {len(found.train.labels.classes)} folders of images, not the people s1 to s40; give the folder of the data with data=PATH"
            )
        whole = self._labelled(found.train)
        rows = stratified(whole.labels.y, SHARES, Generator().manual_seed(0))
        train, validation, fit, score = (pick(whole, r) for r in rows)
        return Material(
            limited(train, self.limit), validation, fit, score, digest([found.content, self.side, self.channels]),
            Pixels(*self.stats, self.pad, self.flip), self._surrogates(frame),
        )  # fmt: skip
