"""Two towers that bring images and their texts together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from unlearn.data import Batch, Handle
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, untrained, whole
from unlearn.registry import subjects
from unlearn.runtime import Run


@subjects.register("dual-encoder")
@dataclass(slots=True)
class DualEncoder:
    """Scores how well a text describes an image; x are images and y the token ids of their texts.

    An image is contrasted with a fixed bank of texts, not with its neighbours in the batch: its loss is its
    own, whatever the batch, and a batch of one has a gradient.

    Attributes:
        module: A transformers CLIP model.
        texts: Token ids of the bank, with shape (M, L).
        anchors: Token ids of texts that carry no knowledge of an image, with shape (A, L).
        says: What each text of the bank says, with shape (M,): texts of one number say the same and are not contrasted.
            None where no two do.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.

    References:
        Radford et al., 2021, Learning transferable visual models from natural language supervision,
        arXiv:2103.00020
    """

    module: nn.Module
    texts: Tensor
    anchors: Tensor
    says: Tensor | None = None
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def features(self, batch: Batch) -> Tensor:
        """Unit-length embeddings of the images, with shape (B, D)."""
        model: Any = self.module
        return normalize(model.get_image_features(pixel_values=batch.x).pooler_output, dim=1)

    def features_and_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Image embeddings (B, D) and their scaled similarity to the bank (B, M)."""
        features = self.features(batch)
        return features, self._scale() * features @ self._embed(self.texts.to(batch.x.device)).T

    def outputs(self, batch: Batch) -> Tensor:
        """Scaled similarity of each image to the texts of the bank, with shape (B, M)."""
        return self.features_and_outputs(batch)[1]

    def cosines(self, batch: Batch) -> Tensor:
        """Cosine of each image and its own text, with shape (B,)."""
        return (self.features(batch) * self._embed(batch.y)).sum(1)

    def meant(self, ids: Tensor) -> Tensor:
        """Which texts of the bank say the same as each of some texts (N, L), as a mask of shape (N, M)."""
        copies = (ids[:, None] == self.texts.to(ids.device)).all(2)
        if self.says is None:
            return copies
        alike = (self.says[:, None] == self.says).to(ids.device)
        return (copies[:, :, None] & alike).any(1)

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """-log p(own text | image) among that text and those of the bank that say something else, with shape (B,)."""
        return self._contrast(batch, batch.y)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """-log p(anchor text | image) for an anchor drawn anew for each image, with shape (B,)."""
        drawn = whole(len(self.anchors), len(batch), rng, batch.x.device)
        return self._contrast(batch, self.anchors.to(batch.x.device)[drawn])

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _embed(self, ids: Tensor) -> Tensor:
        """Unit-length embeddings of texts (M, L), with shape (M, D)."""
        model: Any = self.module
        return normalize(model.get_text_features(input_ids=ids).pooler_output, dim=1)

    def _scale(self) -> Tensor:
        model: Any = self.module
        scale: Tensor = model.logit_scale.exp()
        return scale

    def _contrast(self, batch: Batch, own: Tensor) -> Tensor:
        """-log p(own | image) with `own` texts of shape (B, L), which count once."""
        features, bank = self.features_and_outputs(batch)
        hit = self._scale() * (features * self._embed(own)).sum(1, keepdim=True)
        rest = bank.masked_fill(self.meant(own), float("-inf"))
        return torch.cat([hit, rest], 1).logsumexp(1) - hit.squeeze(1)
