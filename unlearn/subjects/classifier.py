"""Classifiers of images, rows or anything else that maps to logits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from unlearn.data import Batch, Handle
from unlearn.ops.hooks import find_head, layers, named, run_with_input_of
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, untrained
from unlearn.registry import subjects
from unlearn.runtime import Run


def as_is(out: Any) -> Tensor:
    """The output of a module that returns logits."""
    logits: Tensor = out
    return logits


def logits_of(out: Any) -> Tensor:
    """The logits of a transformers output."""
    logits: Tensor = out.logits
    return logits


@subjects.register("classifier")
@dataclass(slots=True)
class Classifier:
    """Predicts one of C classes from an image or a row.

    Attributes:
        module: Maps inputs (B, *) to logits (B, C).
        classes: Number of classes C.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.
        read: Takes the logits out of the module's output.
        head: Name of the last layer; found by a forward pass when not given. Its input are the features.
    """

    module: nn.Module
    classes: int
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None
    read: Callable[[Any], Tensor] = as_is
    head: str = ""
    _layer: nn.Module | None = field(default=None, repr=False)

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module), _layer=None)

    def outputs(self, batch: Batch) -> Tensor:
        """Logits, with shape (B, C)."""
        return self.read(self.module(batch.x))

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Cross-entropy of each example in nats, with shape (B,)."""
        return cross_entropy(self.outputs(batch), batch.y, reduction="none")

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Cross-entropy against a class drawn uniformly from the wrong ones, with shape (B,)."""
        shift = torch.randint(1, self.classes, batch.y.shape, generator=rng, device=rng.device)
        wrong = (batch.y + shift.to(batch.y.device)) % self.classes
        return cross_entropy(self.outputs(batch), wrong, reduction="none")

    def features(self, batch: Batch) -> Tensor:
        """What enters the last layer, with shape (B, D)."""
        return self.features_and_outputs(batch)[0]

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C) of one forward pass."""
        if self._layer is None:
            self.head = self.head or find_head(self.module, batch.x[:2])
            self._layer = named(self.module, self.head)
        features, out = run_with_input_of(self.module, self._layer, batch.x)
        return features, self.read(out)

    def layers(self, batch: Batch) -> list[nn.Module]:
        """Modules with weights, in the order of a forward pass."""
        return layers(self.module, batch.x[:2])

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng), _layer=None)

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)
