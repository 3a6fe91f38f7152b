"""The embedded scenario: handwritten digits from scikit-learn, trained before the user's eyes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Generator

from unlearn.knobs import knob
from unlearn.networks import NETWORKS, seeded
from unlearn.ops.adamw import AdamW
from unlearn.ops.photos import photo_patches
from unlearn.ops.recipe import SGD
from unlearn.patch import weights_hash
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenario import Material, Part, stratified
from unlearn.scenarios._deletable import Deletable
from unlearn.scenarios._spoilt import Spoilable
from unlearn.sources import Arrays, Pixels
from unlearn.subjects.classifier import Classifier

CLASSES = tuple("0123456789")
SHARES = (0.5, 0.1, 0.2, 0.2)
EPOCHS, SPOILT_EPOCHS = 15, 50  # after 15, wrong labels are not yet memorised
VIT_EPOCHS = 40


@scenarios.register("digits")
class Digits(Spoilable, Deletable):
    """Real scans of handwritten digits, 8 x 8 grey pixels, shipped inside scikit-learn.

    1,797 scans, divided class by class into 50 % training, 10 % validation, 20 % to fit attacks and 20 % to
    score. Surrogates are patches of the two photographs that scikit-learn ships.

    References:
        Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits, UCI repository
    """

    modules: ClassVar[tuple[str, ...]] = (
        "unlearn.subjects.classifier",
        "unlearn.networks",
        "unlearn.ops.spoiling",
    )
    network: Literal["resnet8", "resnet18", "resnet20", "vit"] = knob("resnet8", "architecture")
    epochs: int = knob(
        0,
        "training epochs of original and oracle; 0 for 15, for vit 40, or 50 to memorise what is spoilt",
        ge=0,
    )

    def clean(self) -> Material:
        """See `Spoilable.clean`."""
        from sklearn.datasets import load_digits

        found = load_digits()
        x = torch.tensor(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
        y = torch.tensor(found.target, dtype=torch.long)
        source = Arrays(x, y)
        rows = stratified(y, SHARES, torch.Generator().manual_seed(0))
        parts = [Part(source, r, Labels(y[r], CLASSES)) for r in rows]
        train, validation, fit, test = parts
        inputs = weights_hash({"x": x, "y": y})
        content = digest([inputs, 0.0, SHARES])
        pixels = Pixels(mean=(0.305,), std=(0.376,), pad=1)
        return Material(
            train,
            validation,
            fit,
            test,
            content,
            pixels,
            surrogate=photo_patches(1000, 8, 1),
            inputs=inputs,
        )

    def subject(self, rng: Generator) -> Any:
        """See `Scenario.subject`."""

        def build() -> torch.nn.Module:
            return NETWORKS[self.network](1, len(CLASSES))

        made = Classifier(seeded(build, rng), len(CLASSES), recipe=self._recipe(), build=build)
        return self.owned(made, rng)

    def _recipe(self) -> SGD | AdamW:
        """Transformers hardly learn by plain gradient descent."""
        if self.network == "vit":
            return AdamW(epochs=self.epochs or VIT_EPOCHS, weight_decay=0.05)
        return SGD(epochs=self.epochs or (SPOILT_EPOCHS if self.spoils else EPOCHS))
