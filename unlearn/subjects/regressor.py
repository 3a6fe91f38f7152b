"""Regressors of rows, images or tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.ops.hooks import find_head, layers, named, run_with_input_of
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, normal, untrained
from unlearn.registry import subjects
from unlearn.runtime import Run


@subjects.register("regressor")
@dataclass(slots=True)
class Regressor:
    """Predicts one or several values from a row, an image or tokens.

    The targets may be standardised, as the embedded scenarios' are: (value − shift) / scale. Everything but `in_unit`
    then lives on that scale, `mean` and `std` too.

    Attributes:
        module: Maps inputs (B, *) to values (B,) or (B, K).
        mean: Mean of the training targets, a number or a tensor of shape (K,).
        std: Standard deviation of the training targets, likewise.
        error: Squared or absolute error, meaned over the K values of an example.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.
        head: Name of the last layer; found by a forward pass when not given. Its input are the features.
        shift: What was taken off the values to make the targets.
        scale: What the rest was divided by.
        unit: What the values are measured in, for reports.
        weigh: What errors are divided by in the loss, so that step sizes suit targets that are not standardised.
    """

    module: nn.Module
    mean: float | Tensor = 0.0
    std: float | Tensor = 1.0
    error: Literal["squared", "absolute"] = "squared"
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None
    head: str = ""
    shift: float = 0.0
    scale: float = 1.0
    unit: str = ""
    weigh: float = 1.0
    _layer: nn.Module | None = field(default=None, repr=False)

    @classmethod
    def fitted(cls, module: nn.Module, y: Tensor, **rest: Any) -> Self:
        """A regressor whose uninformed targets are drawn from a Gaussian fitted to y of shape (N,) or (N, K)."""
        values = y.reshape(len(y), -1).double()
        return cls(module, values.mean(0).float(), values.std(0).float(), **rest)

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module), _layer=None)

    def outputs(self, batch: Batch) -> Tensor:
        """Values, with shape (B, K)."""
        return _columns(self.module(batch.x))

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Squared or absolute error of each example, with shape (B,)."""
        out = self.outputs(batch)
        return self._error(out, batch.y.reshape(out.shape))

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error of each example against a draw from N(mean, std²), with shape (B,)."""
        out = self.outputs(batch)
        mean, std = (torch.as_tensor(v).to(out) for v in (self.mean, self.std))
        return self._error(out, mean + std * normal(out, rng))

    def in_unit(self, values: Tensor) -> Tensor:
        """Outputs or targets, with shape (B, K), in the unit of the values."""
        return values * self.scale + self.shift

    def features(self, batch: Batch) -> Tensor:
        """What enters the last layer, with shape (B, D)."""
        return self.features_and_outputs(batch)[0]

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, D) and values (B, K) of one forward pass."""
        if self._layer is None:
            self.head = self.head or find_head(self.module, batch.x[:2])
            self._layer = named(self.module, self.head)
        features, out = run_with_input_of(self.module, self._layer, batch.x)
        return features, _columns(out)

    def layers(self, batch: Batch) -> list[nn.Module]:
        """Modules with weights, in the order of a forward pass."""
        return layers(self.module, batch.x[:2])

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng), _layer=None)

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _error(self, out: Tensor, target: Tensor) -> Tensor:
        difference = (out - target.to(out)) / self.weigh
        return (difference.square() if self.error == "squared" else difference.abs()).mean(1)


def _columns(out: Tensor) -> Tensor:
    return out.reshape(len(out), -1)
