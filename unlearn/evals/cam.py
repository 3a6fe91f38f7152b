"""Overlap of class activation maps: whether two models look at the same places of a forgotten image."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.errors import Mismatch
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.cam import grad_cam, hottest, overlap
from unlearn.ops.stats import ends_of_mean
from unlearn.provenance import code_of
from unlearn.registry import metrics

DESCRIBES = "descriptive: where it looks says little of what it knows"


@metrics.register("cam")
class Cam(Metric):
    """Overlap of what two models look at in a forgotten image, by Grad-CAM for its own class.

    The hottest `share` of the pixels of the map, interpolated to the size of the image, and the intersection over union
    with those of another model, mean over the forget set: `cam/forget` with the oracle's, two oracles being the floor,
    and `cam/forget-original` with the original's. Random maps have about share / (2 − share). The ReLU of Grad-CAM leaves
    the order of the pixels that it keeps and is left out, so that a map without positive pixels is a map too. Where a
    class is removed, the oracle's map is that of a logit that was only ever pushed down. A network of 8 x 8 digits has
    maps of 2 x 2 places, which say little.

    References:
        Selvaraju et al., 2017, Grad-CAM: visual explanations from deep networks, arXiv:1610.02391
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991
    """

    basic: ClassVar[bool] = False
    share: float = knob(0.2, "share of the pixels that count as hot", gt=0, lt=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """Mean overlap with the oracle and with the original; unknown where the model gives no maps."""
        n = len(ev.y("forget"))
        rest: dict[str, Any] = {"metric": self.name, "n": n}
        try:
            self._hot(ev, "unlearned")
        except Mismatch as err:
            return [Score(name="cam/forget", value=None, aim=Aim.UP, note=f"refused: {err}", **rest)]

        def of(a: str, b: str) -> Tensor:
            return overlap(self._hot(ev, a), self._hot(ev, b))

        def mean(a: str, b: str) -> float:
            return float(of(a, b).mean())

        ends = partial(of, "unlearned", "oracle")
        return [
            ev.distance("cam/forget", mean, Aim.UP, lambda: ends_of_mean(ends()), note=DESCRIBES, **rest),
            ev.level("cam/forget-original", partial(mean, "original"), Aim.MATCH, note=DESCRIBES, **rest,
                     **ends_of_mean(of("unlearned", "original"))),
        ]  # fmt: skip

    def _hot(self, ev: Evidence, who: str) -> Tensor:
        """Hot pixels of each forgotten image, with shape (N, H W)."""
        what = json.dumps([self.name, self.share, code_of(type(self), modules=("unlearn.ops.cam",))])
        return ev.kept(who, "forget", what, lambda: {"hot": self._pass(ev, who)})["hot"]

    def _pass(self, ev: Evidence, who: str) -> Tensor:
        subject: Any = ev.subjects[who]
        found = []
        for batch in ev.handles["forget"].batches(ev.batch_size):
            h, w = batch.x.shape[-2:] if batch.x.dim() == 4 else (1, 1)
            maps = grad_cam(subject, batch).cpu()
            found.append(hottest(maps, (max(h, maps.shape[1]), max(w, maps.shape[2])), self.share))
        return torch.cat(found)
