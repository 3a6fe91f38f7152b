"""Distance of each drawing from the original's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlearn.gallery import Layers
from unlearn.metric import Evidence, Metric, Score
from unlearn.ops.drawn import apart
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("paired-distance")
class PairedDistance(Metric):
    """How far each drawing moved from the original's of the same prompt and noise.

    For each network of the scenario, with x̂ and ŷ the maps that a layer makes of the two drawings, their channels
    scaled to length 1 at each position, the distance is

        Σ_layers mean_positions ‖x̂ − ŷ‖²;

    and `rmse` is the root of the mean squared difference of pixels. `target` is the mean over the prompts with the
    concept, where drawings that show nothing are left out, `others` that over the rest.

    References:
        Zhang et al., 2018, The unreasonable effectiveness of deep features as a perceptual metric,
        arXiv:1801.03924 (LPIPS)

    Differences from the authors' released code:
        Named networks of the scenario instead of AlexNet or VGG, and no learned weights of channels; see `lpips`.
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Target, others and their difference, for each network and in pixels."""
        made = []
        for network, layers in ev.drawn.features.items():
            of = functools.cache(functools.partial(_perceived, ev, layers))
            note = f"features of {network}, not LPIPS"
            made += apart(ev, f"{self.name}/{network}", of, note, metric=self.name)
        pixels = functools.cache(lambda who: rmse(ev.images(who), ev.images("original")))
        return made + apart(ev, f"{self.name}/rmse", pixels, metric=self.name)


def _perceived(ev: Evidence, layers: Layers, who: str) -> Tensor:
    chunks = [ev.images(w).split(ev.batch_size) for w in (who, "original")]
    with torch.inference_mode():
        return torch.cat([perceptual(layers(x), layers(y)) for x, y in zip(*chunks, strict=True)])


def perceptual(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Squared distance of unit features, meaned over positions and summed over layers, with shape (B,).

    Args:
        a: Maps of each layer, with shape (B, C, h, w).
        b: Maps of the same layers for other images.

    Example:
        >>> left, up = torch.tensor([[[[3.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[5.0]]]])
        >>> perceptual([left, left], [up, 2 * left]).tolist()
        [2.0]
    """
    apart = [(normalize(x) - normalize(y)).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]
    return torch.stack(apart).sum(0)


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root of the mean squared difference of images (B, 3, H, W), with shape (B,)."""
    return (a - b).square().flatten(1).mean(1).sqrt()
