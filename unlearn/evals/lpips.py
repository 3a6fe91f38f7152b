"""Learned perceptual distance (LPIPS) of each drawing from the original's."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.errors import Mismatch
from unlearn.metric import Evidence, Metric, Score
from unlearn.ops.drawn import apart
from unlearn.ops.optional import device_of, loading
from unlearn.registry import metrics
from unlearn.subject import Draws

SMALLEST = 32
"""Smaller drawings do not fill AlexNet's pooling."""


@metrics.register("lpips")
class Lpips(Metric):
    """Learned perceptual distance of each drawing from the original's of the same prompt and noise.

    LPIPS with AlexNet, version 0.1, at the size in which the models draw. `target` is the mean over the prompts
    with the concept, where drawings that show nothing are left out, `others` that over the rest. Needs the package
    `lpips`; without it, `paired-distance` asks the same of the scenario's networks.

    References:
        Zhang et al., 2018, The unreasonable effectiveness of deep features as a perceptual metric, arXiv:1801.03924
        Gandikota et al., 2023, Erasing concepts from diffusion models, arXiv:2303.07345 (between models)

    Differences from the authors' released code:
        That of the second shrinks drawings to 64 pixels, which makes distances smaller.
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False
    extras: ClassVar[str] = (
        "install it with `pip install lpips`; it needs torchvision and fetches AlexNet's weights"
    )

    def measure(self, ev: Evidence) -> list[Score]:
        """Target, others and their difference."""
        high, wide = ev.images("original").shape[-2:]
        if min(high, wide) < SMALLEST:
            raise Mismatch(
                f"lpips needs drawings of at least {SMALLEST} pixels a side, these have {high} x {wide}; choose paired-distance"
            )
        device = device_of(ev)
        with loading(self):
            net: Any = import_module("lpips").LPIPS(net="alex", verbose=False).to(device).eval()

        @functools.cache
        def of(who: str) -> Tensor:
            pairs = [ev.images(w).split(ev.batch_size) for w in (who, "original")]
            with torch.inference_mode():
                found = [net(a.to(device), b.to(device), normalize=True) for a, b in zip(*pairs, strict=True)]
            return torch.cat(found).flatten().cpu()

        return apart(ev, self.name, of, metric=self.name, variant="alex, v0.1")
