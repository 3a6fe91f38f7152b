"""Leak check: near-duplicates of forgotten examples in what is kept and in what is scored."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.duplicates import NEAR, near_duplicates
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics
from unlearn.subject import EmbedsClasses


@metrics.register("leaks")
class Leaks(Metric):
    """Share of the forgotten examples that are still there, as near-duplicates in another set.

    By distance of the original's features: an example has a near-duplicate in a set where the nearest one of it is
    closer than `share` times what is usual there, the median distance of its examples to their nearest neighbours. What
    stays in the retain set (`leaks/retain`) is learnt again by every method, the oracle too; what is in the test set
    (`leaks/test`) makes the attack think of a stranger as a member. `leaks/conflicts` are those of the retain set
    with another label. A number above 0 limits what all other scores can say, and is no property of the method.

    References:
        None; a count.
    """

    needs: ClassVar[type] = EmbedsClasses
    basic: ClassVar[bool] = False
    share: float = knob(
        NEAR, "of the usual distance, below which two examples are near-duplicates", gt=0, le=1
    )

    def measure(self, ev: Evidence) -> list[Score]:
        """Shares in the retain and the test set, and those with another label."""
        found, y = [], ev.y("forget")
        for where in ("retain", "test"):
            if len(ev.y(where)) < 2:
                continue
            mine, theirs = (ev.features("original", w) for w in ("forget", where))
            near, which = near_duplicates(mine, theirs, self.share)
            found.append(self._score(where, near))
            if where == "retain":
                found.append(self._score("conflicts", near & (ev.y(where)[which] != y)))
        return found

    def _score(self, name: str, hits: Tensor) -> Score:
        value = float(hits.double().mean())
        return Score(name=f"leaks/{name}", metric=self.name, value=value, original=value, aim=Aim.DOWN, n=len(hits),
                     note="of the data, the same for every method", **ends_of_share(hits.double()))  # fmt: skip
