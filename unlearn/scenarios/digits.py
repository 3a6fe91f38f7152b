"""The embedded scenario: handwritten digits from scikit-learn, trained before the user's eyes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator

from unlearn.knobs import knob
from unlearn.networks import NETWORKS, seeded
from unlearn.ops.photos import photo_patches
from unlearn.ops.recipe import SGD
from unlearn.patch import weights_hash
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import Labels
from unlearn.scenario import Material, Part, Scenario, flip_labels, stratified
from unlearn.sources import Arrays, Pixels, Relabeled, Source
from unlearn.subjects.classifier import Classifier

CLASSES = tuple("0123456789")
SHARES = (0.5, 0.1, 0.2, 0.2)
EPOCHS, NOISY_EPOCHS = 15, 50  # after 15, wrong labels are not yet memorised


@scenarios.register("digits")
class Digits(Scenario):
    """Real scans of handwritten digits, 8 x 8 grey pixels, shipped inside scikit-learn.

    1,797 scans, divided class by class into 50 % training, 10 % validation, 20 % to fit attacks and 20 % to
    score. Surrogates are patches of the two photographs that scikit-learn ships.

    References:
        Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits, UCI repository
    """

    modules: ClassVar[tuple[str, ...]] = ("unlearn.subjects.classifier", "unlearn.networks")
    noise: float = knob(0.0, "share of training labels made wrong, to be memorised", ge=0, le=0.5)
    network: Literal["resnet8", "resnet18", "resnet20"] = knob("resnet8", "architecture")
    epochs: int = knob(
        0, "training epochs of original and oracle; 0 for 15, or 50 with noise, to memorise it", ge=0
    )

    def material(self) -> Material:
        """See `Scenario.material`."""
        from sklearn.datasets import load_digits

        found = load_digits()
        x = torch.tensor(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
        y = torch.tensor(found.target, dtype=torch.long)
        source: Source = Arrays(x, y)
        rows = stratified(y, SHARES, torch.Generator().manual_seed(0))
        parts = [Part(source, r, Labels(y[r], CLASSES)) for r in rows]
        if self.noise:
            flipped, wrong = flip_labels(
                y[rows[0]], len(CLASSES), self.noise, torch.Generator().manual_seed(1)
            )
            noisy = y.clone()
            noisy[rows[0]] = flipped
            parts[0] = Part(Relabeled(source, noisy), rows[0], Labels(flipped, CLASSES, noisy=wrong))
        train, validation, fit, test = parts
        inputs = weights_hash({"x": x, "y": y})
        content = digest([inputs, self.noise, SHARES])
        pixels = Pixels(mean=(0.305,), std=(0.376,), pad=1)
        return Material(
            train,
            validation,
            fit,
            test,
            content,
            pixels,
            surrogate=photo_patches(1000, 8, 1),
            noise=self.noise,
            inputs=inputs,
        )

    def subject(self, rng: Generator) -> Classifier:
        """See `Scenario.subject`."""

        def build() -> torch.nn.Module:
            return NETWORKS[self.network](1, len(CLASSES))

        recipe = SGD(epochs=self.epochs or (NOISY_EPOCHS if self.noise else EPOCHS))
        return Classifier(seeded(build, rng), len(CLASSES), recipe=recipe, build=build)
