"""Likeness of each completed image to the true one, in the features of named networks."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from unlearn.filling import Completes
from unlearn.gallery import Critics
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.completed import completed, watched
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("completion-cosine")
class CompletionCosine(Metric):
    """How like each completed image is to the true one, by the angle between features of a network.

    For each network of the scenario, such as LeNet and ResNet-8, the mean over a set's images of the cosine between its
    features of the completed and of the true image. The paper takes CLIP's, for which these are no substitute.

    References:
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351
    """

    needs: ClassVar[type] = Completes

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set and network."""
        return watched(ev, self.name, lambda critics, where: self._scores(ev, critics, where))

    def _scores(self, ev: Evidence, critics: Critics, where: str) -> list[Score]:
        return [self._score(ev, critics, where, network) for network in critics.features]

    def _score(self, ev: Evidence, critics: Critics, where: str, network: str) -> Score:
        look = critics.features[network]
        truth = look(ev.y(where))

        def like(who: str) -> Tensor:
            return cosine_similarity(look(completed(ev, who, where)).double(), truth.double())

        return ev.level(
            f"{self.name}/{network}/{where}", lambda who: like(who).mean(), Aim.MATCH, metric=self.name, n=len(truth),
            note=f"features of {network}, not CLIP", **ends_of_mean(like("unlearned")),
        )  # fmt: skip
