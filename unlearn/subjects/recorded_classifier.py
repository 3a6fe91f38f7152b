"""Classifiers that carry a record of their training, from which steps can be subtracted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from unlearn.data import Batch, Handle
from unlearn.errors import Mismatch
from unlearn.ops.hooks import find_head, named, run_with_input_of
from unlearn.ops.recipe import Recipe
from unlearn.ops.recorded import Record, Watching
from unlearn.ops.verbs import untrained
from unlearn.registry import subjects
from unlearn.runtime import Run
from unlearn.subjects.classifier import Classifier


@dataclass(frozen=True, slots=True)
class WithRecord:
    """Trains by a recipe and writes down what its steps change.

    Attributes:
        inner: The recipe; it must ask the subject for one loss in each step.
        watched: Ids of the examples whose batches are recorded; all batches if None.
    """

    inner: Recipe
    watched: tuple[int, ...] | None = None

    def fit(self, subject: Any, handle: Handle, run: Run) -> None:
        """See `Recipe.fit`; the subject must be a `RecordedClassifier`."""
        subject.fit(handle, run)

    def describe(self) -> dict[str, Any]:
        """See `Recipe.describe`."""
        return {"recipe": "with-record", "watched": self.watched, "inner": self.inner.describe()}


@subjects.register("recorded-classifier")
@dataclass(slots=True)
class RecordedClassifier:
    """Predicts one of C classes, and knows what each step of its training changed.

    Attributes:
        module: The network beside its record, see `unlearn.ops.recorded`.
        classes: Number of classes C.
        recipe: How it was trained; None means that it is unknown.
        build: Returns the untrained network; by default every layer is reset.
        read: Takes the logits out of the network's output.
        head: Name of the network's last layer; found by a forward pass when not given.
    """

    module: Record
    classes: int
    recipe: WithRecord | None
    build: Callable[[], nn.Module] | None
    read: Callable[[Any], Tensor]
    head: str = ""

    @classmethod
    def of(cls, start: Classifier, watched: tuple[int, ...] | None = None) -> Self:
        """This classifier, trained by its recipe with a record of its steps.

        Args:
            start: The untrained classifier.
            watched: Ids of the examples whose batches are recorded; all batches if None.
        """
        recipe = None if start.recipe is None else WithRecord(start.recipe, watched)
        return cls(Record(start.module), start.classes, recipe, start.build, start.read, start.head)

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def outputs(self, batch: Batch) -> Tensor:
        """Logits, with shape (B, C)."""
        return self.read(self.module(batch.x))

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Cross-entropy of each example in nats, with shape (B,)."""
        return cross_entropy(self.outputs(batch), batch.y, reduction="none")

    def features(self, batch: Batch) -> Tensor:
        """What enters the last layer, with shape (B, D)."""
        return self.features_and_outputs(batch)[0]

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C) of one forward pass."""
        net = self.module.net
        self.head = self.head or find_head(net, batch.x[:2])
        features, out = run_with_input_of(net, named(net, self.head), batch.x)
        return features, self.read(out)

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights and no record."""
        return replace(self, module=Record(untrained(self.module.net, self.build, rng)))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe and records what its steps change, in place of an older record.

        Raises:
            Mismatch: If the recipe is unknown, or asks for no loss.
        """
        if self.recipe is None:
            raise Mismatch(
                "this model carries no training recipe, so nothing can be retrained; build it around a classifier that has one"
            )
        net = Classifier(self.module.net, self.classes, read=self.read)
        device = next(net.module.parameters()).device
        watched = self.recipe.watched
        seen = Watching(
            net, None if watched is None else torch.tensor(watched, dtype=torch.long, device=device)
        )
        self.recipe.inner.fit(cast(Any, seen), handle, run)
        seen.finish()
        if not (seen.steps or seen.skipped):
            raise Mismatch(
                f"{type(self.recipe.inner).__name__} trains without asking the subject for its loss, so its steps cannot be recorded; train by sgd"
            )
        self.module.write(seen.steps, seen.skipped)

    def steps_with(self, ids: Tensor) -> Tensor:
        """See `unlearn.deletable.Recorded.steps_with`."""
        return self.module.steps_with(ids)

    def subtract(self, steps: Tensor) -> None:
        """See `unlearn.deletable.Recorded.subtract`."""
        self.module.subtract(steps)

    def stored(self) -> int:
        """See `unlearn.deletable.Recorded.stored`."""
        return self.module.stored()
