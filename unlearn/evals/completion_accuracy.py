"""Whether completed images still show what they should."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.filling import Completes
from unlearn.gallery import Critics
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.completed import completed, shown, watched
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics


@metrics.register("completion-accuracy")
class CompletionAccuracy(Metric):
    """Share of completed images in which an independent classifier sees the right class.

    The scenario's judge looks at whole images, what was given and what was filled in, and is right where it sees the
    class that the image is labelled with. Pixels that were given tell much of it, so a model that completes with noise
    has no score of 0; compare with the oracle. A note says how often the judge is right on the true images.

    References:
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    needs: ClassVar[type] = Completes

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return watched(ev, self.name, lambda critics, where: [self._score(ev, critics, where)])

    def _score(self, ev: Evidence, critics: Critics, where: str) -> Score:
        labels = critics.labels[ev.index(where)]

        def right(images: Tensor) -> Tensor:
            return critics.judge(images).argmax(1) == labels

        hits, truth = right(completed(ev, "unlearned", where)), right(ev.y(where))
        note = f"right on {100 * float(truth.double().mean()):.1f} % of the true images; trained on {critics.trained}"
        return ev.level(
            f"{self.name}/{where}", lambda who: right(completed(ev, who, where)).double().mean(), Aim.MATCH,
            metric=self.name, n=len(hits), note=note, headline=where in shown(ev), **ends_of_share(hits),
        )  # fmt: skip
