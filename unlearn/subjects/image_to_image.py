"""Image-to-image models: an encoder-decoder that completes, restores or translates images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.ops.hooks import named, run_with_input_of
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, normal, untrained
from unlearn.registry import subjects
from unlearn.runtime import Run


@subjects.register("image-to-image")
@dataclass(slots=True)
class ImageToImage:
    """Turns a source image into a target image by way of a representation.

    Attributes:
        module: Maps source images (B, C, H, W) to images of the targets' shape.
        decoder: Name of the submodule that the representation enters.
        mean: Mean of the training targets' pixels.
        std: Standard deviation of the training targets' pixels.
        low: Smallest value of a pixel.
        high: Largest value of a pixel.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.

    References:
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    module: nn.Module
    decoder: str
    mean: float = 0.5
    std: float = 0.25
    low: float = 0.0
    high: float = 1.0
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def outputs(self, batch: Batch) -> Tensor:
        """Pixels of the made images, flattened to (B, K)."""
        return self.images(batch).flatten(1)

    def images(self, batch: Batch) -> Tensor:
        """The made images, with shape (B, C, H, W)."""
        made: Tensor = self.module(batch.x)
        return made

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Squared error of each example, meaned over its pixels, with shape (B,)."""
        made = self.images(batch)
        return (made - batch.y.to(made)).square().flatten(1).mean(1)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error of each example against a noise image clamp(N(mean, std²), low, high), with shape (B,)."""
        made = self.images(batch)
        noise = (self.mean + self.std * normal(made, rng)).clamp(self.low, self.high)
        return (made - noise).square().flatten(1).mean(1)

    def features(self, batch: Batch) -> Tensor:
        """The representation that enters the decoder, with shape (B, D)."""
        return self.features_and_outputs(batch)[0]

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Representation (B, D) and pixels (B, K) of one forward pass."""
        features, made = run_with_input_of(self.module, named(self.module, self.decoder), batch.x)
        return features, made.flatten(1)

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)
