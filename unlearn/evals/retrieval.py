"""Retrieval accuracy."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.retrieval import among_best
from unlearn.ops.sets import scored
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics
from unlearn.subject import Matches

TOPS = (1, 5)


@metrics.register("retrieval")
class Retrieval(Metric):
    """Share of images that find their text, and of texts that find their image, among the best.

    `image-to-text`: each image of a set ranks the texts of the bank, and one of the first 1 or 5 says what its own says.
    `text-to-image`: each text of the bank that says what some image of the set says ranks all images of the same origin,
    to be forgotten or not, and one of the first 1 or 5 is such an image. A model that forgot finds as the oracle does.

    References:
        Radford et al., 2021, Learning transferable visual models from natural language supervision, arXiv:2103.00020
        Cai et al., 2024, Targeted unlearning with single layer unlearning gradient, arXiv:2407.11867
    """

    needs: ClassVar[type] = Matches

    def measure(self, ev: Evidence) -> list[Score]:
        """Two scores for each set and way."""
        there = scored(ev)
        return [
            score
            for where in there
            for k in TOPS
            for score in self._both(ev, where, [w for w in there if ("test" in w) == ("test" in where)], k)
        ]

    def _both(self, ev: Evidence, where: str, gallery: list[str], k: int) -> list[Score]:
        bank = cast(Matches, ev.subjects["unlearned"])
        says = {w: bank.meant(ev.y(w)) for w in gallery}
        asked = says[where].any(0)
        images = torch.cat([says[w] for w in gallery]).T[asked]

        def to_text(who: str) -> Tensor:
            return among_best(ev.outputs(who, where), says[where], k)

        def to_image(who: str) -> Tensor:
            scores = torch.cat([ev.outputs(who, w) for w in gallery]).T[asked]
            return among_best(scores, images, k)

        ways: dict[str, Any] = {"image-to-text": to_text, "text-to-image": to_image}
        return [self._score(ev, f"{way}/top{k}/{where}", hits) for way, hits in ways.items()]

    def _score(self, ev: Evidence, name: str, hits: Any) -> Score:
        now = hits("unlearned")
        return ev.level(
            f"retrieval/{name}", lambda who: float(hits(who).double().mean()), Aim.MATCH, metric=self.name, n=len(now),
            headline="image-to-text/top1" in name, **ends_of_share(now),
        )  # fmt: skip
