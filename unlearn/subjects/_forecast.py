"""A classifier that answers with a prediction of what another one would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from unlearn.data import Batch, Handle
from unlearn.ops.attribution import Attribution, Removal
from unlearn.runtime import Run
from unlearn.subject import Classifies, Trains


class Parts(nn.Module):
    """What a forecast rests on: the original, the models, who saw what, and the positions of what is removed.

    Args:
        original: The original's module.
        models: Those of the M models.
        removal: With who saw what (M, N) and the positions (f,).
    """

    seen: Tensor
    rows: Tensor

    def __init__(self, original: nn.Module, models: Sequence[nn.Module], removal: Removal) -> None:
        super().__init__()
        self.original, self.models = original, nn.ModuleList(models)
        device = next(original.parameters()).device
        self.register_buffer("seen", removal.seen.to(device))
        self.register_buffer("rows", removal.rows.to(device))


@dataclass(slots=True)
class Forecast:
    """Answers f₀(x) − κ Σ_{i ∈ F} A[i, x]; features and layers are the original's.

    Attributes:
        module: Everything that it rests on, see `Parts`.
        classes: Number of classes C.
        recipe: The original's.
        original: The model f₀.
        models: Models whose outputs A is estimated from.
        attribution: How, see `unlearn.ops.attribution`.
        scale: κ.
    """

    module: nn.Module
    classes: int
    recipe: Any
    original: Any
    models: list[Any]
    attribution: Attribution
    scale: float

    @classmethod
    def of(cls, original: Any, models: Sequence[Classifies], removal: Removal, scale: float) -> Self:
        """A forecast of the original without the examples of a removal.

        Args:
            original: A classifier with features that can be trained.
            models: Models whose outputs A is estimated from.
            removal: What is removed, and how A is estimated.
            scale: κ.
        """
        parts = Parts(original.module, [m.module for m in models], removal)
        recipe = original.recipe if isinstance(original, Trains) else None
        return cls(parts, original.classes, recipe, original, list(models), removal.attribution, scale)

    @classmethod
    def restored(
        cls, original: Any, state: Mapping[str, Tensor], attribution: Attribution, scale: float
    ) -> Self:
        """The same from the tensors of `Parts`, less those that the original, a forecast itself, holds under their names.

        The models have the architecture of the original.
        """
        state = {**original.module.state_dict(), **state}
        plain = original
        while isinstance(plain, Forecast):
            plain = plain.original
        models = [plain.clone() for _ in range(len(state["seen"]))]
        made = cls.of(original, models, Removal(attribution, state["seen"], state["rows"]), scale)
        made.module.load_state_dict({name: state[name] for name in made.module.state_dict()})
        return made

    def clone(self) -> Self:
        """A copy with weights of its own."""
        models = [m.clone() for m in self.models]
        return type(self).of(self.original.clone(), models, self._removal(), self.scale)

    def outputs(self, batch: Batch) -> Tensor:
        """Predicted logits, with shape (B, C)."""
        said = torch.stack([m.outputs(batch) for m in self.models])
        logits: Tensor = self.original.outputs(batch)
        return logits - self.scale * self._removal()(said)

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Cross-entropy of each example in nats, with shape (B,)."""
        return cross_entropy(self.outputs(batch), batch.y, reduction="none")

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Cross-entropy against a class drawn uniformly from the wrong ones, with shape (B,)."""
        shift = torch.randint(1, self.classes, batch.y.shape, generator=rng, device=rng.device)
        wrong = (batch.y + shift.to(batch.y.device)) % self.classes
        return cross_entropy(self.outputs(batch), wrong, reduction="none")

    def features(self, batch: Batch) -> Tensor:
        """What enters the original's last layer, with shape (B, D)."""
        features: Tensor = self.original.features(batch)
        return features

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The original's features (B, D), and predicted logits (B, C)."""
        return self.features(batch), self.outputs(batch)

    def layers(self, batch: Batch) -> list[nn.Module]:
        """The original's modules with weights, in the order of a forward pass."""
        layers: list[nn.Module] = self.original.layers(batch)
        return layers

    def fresh(self, rng: Generator) -> Any:
        """The original's architecture with newly drawn weights."""
        return self.original.fresh(rng)

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains the original in place by its recipe."""
        self.original.fit(handle, run)

    def _removal(self) -> Removal:
        parts: Any = self.module
        return Removal(self.attribution, parts.seen, parts.rows)
