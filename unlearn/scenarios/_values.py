"""What the scenarios with values as targets share: how data are divided and put on a common scale."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from unlearn.knobs import knob
from unlearn.networks import mlp, seeded
from unlearn.ops.adamw import AdamW
from unlearn.ops.columns import standardised, strata
from unlearn.patch import weights_hash
from unlearn.provenance import digest
from unlearn.request import Labels
from unlearn.scenario import Material, Part, Scenario, stratified
from unlearn.sources import Arrays
from unlearn.subjects.regressor import Regressor

SHARES = (0.6, 0.1, 0.15, 0.15)


@dataclass(frozen=True, slots=True)
class Examples:
    """A whole data set.

    Attributes:
        x: Inputs, ready for the model, with shape (N, *).
        y: Targets in their own unit, with shape (N,).
    """

    x: Tensor
    y: Tensor


class Values(Scenario):
    """A data set whose targets are values.

    60 % of the examples are for training, 10 % for validation, 15 % to fit attacks and 15 % to score, with the same share
    of every tenth of the targets. The model sees and predicts targets less the mean of the training targets, divided by
    their standard deviation, and rows of numbers likewise column by column; these few numbers, which come from all
    training examples, are the same for original and oracle. Requests and reports are in the unit of the targets.
    """

    unit: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = (
        "unlearn.subjects.regressor",
        "unlearn.scenarios._values",
        "unlearn.networks",
        "unlearn.ops.columns",
    )

    @abstractmethod
    def examples(self) -> Examples:
        """The data as they are."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The untrained network."""

    @abstractmethod
    def recipe_of_training(self) -> AdamW:
        """How original and oracle are trained."""

    def material(self) -> Material:
        """See `Scenario.material`."""
        whole, rows = self._whole, self._rows
        x = whole.x
        if x.is_floating_point():
            x = standardised(x, rows[0])[0]
        y, _, _ = standardised(whole.y[:, None], rows[0])
        source = Arrays(x, y.squeeze(1))
        train, validation, fit, test = (Part(source, r, Labels(whole.y[r], ids=r)) for r in rows)
        content = digest([weights_hash({"x": whole.x, "y": whole.y}), SHARES])
        return Material(train, validation, fit, test, content)

    def subject(self, rng: Generator) -> Regressor:
        """See `Scenario.subject`."""
        _, shift, scale = standardised(self._whole.y[:, None], self._rows[0])
        return Regressor(
            seeded(self.build, rng), recipe=self.recipe_of_training(), build=self.build, shift=float(shift),
            scale=float(scale), unit=self.unit,
        )  # fmt: skip

    @cached_property
    def _whole(self) -> Examples:
        return self.examples()

    @cached_property
    def _rows(self) -> list[Tensor]:
        return stratified(strata(self._whole.y), SHARES, torch.Generator().manual_seed(0))


class Table(Values):
    """Rows of numbers, and a network of fully connected layers."""

    width: int = knob(64, "units in each hidden layer", ge=1)
    epochs: int = knob(30, "training epochs of original and oracle", ge=1)
    lr: float = knob(5e-3, "peak learning rate of original and oracle", gt=0)

    def build(self) -> nn.Module:
        """See `Values.build`."""
        return mlp(self._whole.x.shape[1], 1, (self.width, self.width))

    def recipe_of_training(self) -> AdamW:
        """See `Values.recipe_of_training`."""
        return AdamW(epochs=self.epochs, lr=self.lr, batch_size=64)
