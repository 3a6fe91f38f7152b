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

WORDS = {
    "retain": "a near-duplicate in the retain set, from which every method learns it again, the oracle too",
    "test": "a near-duplicate in the test set, which attacks take for a stranger",
    "conflicts": "a near-duplicate in the retain set with another label",
}


@metrics.register("leaks")
class Leaks(Metric):
    """Share of the forgotten examples that are still there, as near-duplicates in another set.

    By distance of the original's features: an example has a near-duplicate in a set where the nearest one of it is
    closer than `share` times what is usual there, the median distance of its examples to their nearest neighbours. What
    stays in the retain set (`leaks/retain`) is learnt again by every method, the oracle too; what is in the test set
    (`leaks/test`) makes the attack think of a stranger as a member. `leaks/conflicts` are those of the retain set
    with another label. What is found is also said before the run, and noted in its report. A number above 0 limits what all other scores can say, and is no property of the method.

    References:
        None; a count.
    """

    needs: ClassVar[type] = EmbedsClasses
    basic: ClassVar[bool] = False
    share: float = knob(
        NEAR, "of the usual distance, below which two examples are near-duplicates", gt=0, le=1
    )

    def before(self, ev: Evidence) -> list[str]:
        """One sentence for each set in which near-duplicates of forgotten examples are."""
        self.accept(ev.subjects["original"])
        said = []
        for name, hits in self._found(ev).items():
            if n := int(hits.sum()):
                what = WORDS[name]
                said.append(f"{n} of {len(hits)} forgotten examples {'have' if n > 1 else 'has'} {what}.")
        return said

    def measure(self, ev: Evidence) -> list[Score]:
        """Shares in the retain and the test set, and those with another label."""
        return [self._score(name, hits) for name, hits in self._found(ev).items()]

    def _found(self, ev: Evidence) -> dict[str, Tensor]:
        """Which forgotten examples have a near-duplicate, by kind, each with shape (n,)."""
        found: dict[str, Tensor] = {}
        for where in ("retain", "test"):
            if len(ev.y(where)) < 2:
                continue
            mine, theirs = (ev.features("original", w) for w in ("forget", where))
            near, which = near_duplicates(mine, theirs, self.share)
            found[where] = near
            if where == "retain":
                found["conflicts"] = near & (ev.y(where)[which] != ev.y("forget"))
        return found

    def _score(self, name: str, hits: Tensor) -> Score:
        value = float(hits.double().mean())
        return Score(name=f"leaks/{name}", metric=self.name, value=value, original=value, aim=Aim.DOWN, n=len(hits),
                     note="of the data, the same for every method", **ends_of_share(hits.double()))  # fmt: skip
