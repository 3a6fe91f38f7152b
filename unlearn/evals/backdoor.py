"""Success of a backdoor."""

from __future__ import annotations

from typing import ClassVar

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.spoiling import Backdoor as Way
from unlearn.ops.spoiling import without
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics


@metrics.register("backdoor")
class Backdoor(Metric):
    """Share of patched held-out images that are taken for the class that the patch stands for.

    Images of that class itself do not count. A model that never saw the patch makes a few such errors as well; how
    many, the oracle says.

    References:
        Gu et al., 2017, BadNets, arXiv:1708.06733
        Goel et al., 2024, Corrective machine unlearning, arXiv:2402.14015
    """

    basic: ClassVar[bool] = False
    ways: ClassVar[tuple[str, ...]] = (Way.kind,)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score; nothing is known where there is no backdoor."""
        where = f"{Way.kind}_test"
        if where not in ev.handles:
            return [without(self, "backdoor/success", Aim.DOWN)]
        taken = ev.correct("unlearned", where)
        return [ev.level(
            "backdoor/success", lambda who: ev.correct(who, where).double().mean(), Aim.DOWN, metric=self.name,
            n=len(taken), headline=True, **ends_of_share(taken),
        )]  # fmt: skip
