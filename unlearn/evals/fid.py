"""Fréchet inception distance (FID) of drawings."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.drawn import broken, joined
from unlearn.ops.optional import device_of, files_of, loading
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("fid")
class Fid(Metric):
    """Fréchet inception distance from the original's drawings, on the prompts without the concept.

    Clean-FID: 2048 features of Inception v3, drawings resized with antialiasing. The original's drawings of the
    same prompts from the same noise are the reference, not photographs, so that it measures damage, and tables
    of FID on COCO are no comparison. Needs the package `clean-fid`; without it, `frechet` asks the same of the
    scenario's networks, and `kernel-distance` is to be preferred for few drawings.

    References:
        Heusel et al., 2017, GANs trained by a two time-scale update rule, arXiv:1706.08500
        Parmar et al., 2022, On aliased resizing and surprising subtleties in GAN evaluation, arXiv:2104.11222
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False
    extras: ClassVar[str] = (
        "install it with `pip install clean-fid`; it needs torchvision and fetches Inception's weights"
    )

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        others = ~ev.drawn.asks
        with loading(self):
            library: Any = import_module("cleanfid.fid")

        def of(who: str) -> float:
            drawn, original = ev.images(who)[others], ev.images("original")[others]
            if not (drawn.isfinite().all() and original.isfinite().all()):
                return float("nan")
            with files_of(drawn) as ours, files_of(original) as theirs, loading(self):
                return float(
                    library.compute_fid(
                        str(ours[0].parent), str(theirs[0].parent), mode="clean", num_workers=0, batch_size=32,
                        device=device_of(ev), verbose=False, use_dataparallel=False,
                    )
                )  # fmt: skip

        note = joined("against the original's drawings; too large where drawings are few", broken(ev))
        return [ev.level(f"{self.name}/others", of, Aim.DOWN, metric=self.name, variant="clean, 2048 features",
                         n=int(others.sum()), note=note, headline=True)]  # fmt: skip
