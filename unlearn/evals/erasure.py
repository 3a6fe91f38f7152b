"""What became of a concept and of its neighbours in what a model draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics
from unlearn.subject import Draws

AIMS = {"ua": Aim.UP, "in-domain": Aim.UP, "cross-domain": Aim.UP, "nothing": Aim.DOWN}
UNSEEN = "no judge: cannot tell"


@metrics.register("erasure")
class Erasure(Metric):
    """Whether a concept is gone from drawings, and whether the others are still drawn right.

    All models draw the same prompts from the same noise, and a judge for each axis looks at them. `ua`, the
    unlearning accuracy, is the share of prompts with the concept whose drawing shows another one; a drawing that
    the judge takes for none is damage, not erasure, and counts in `nothing`, over all prompts and all judges.
    Over the prompts without the concept, `in-domain` is the share drawn right on the concept's own axis and
    `cross-domain` the share drawn right on the others. Without a judge of the concept nobody can tell.

    References:
        The UnlearnCanvas benchmark (UA, in-domain and cross-domain retain accuracy)

    Differences from the authors' released code:
        There, a drawing that shows nothing counts as unlearned.
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Four scores, less those that no prompt asks for; unknown ones where there is no judge."""
        gallery = ev.gallery
        if gallery is None:
            return []
        if not gallery.judged:
            return [
                Score(name=f"erasure/{n}", metric=self.name, value=None, aim=aim, note=UNSEEN, headline=True)
                for n, aim in AIMS.items()
            ]
        asks = gallery.asked[gallery.axis] == gallery.target

        def right(who: str, axis: str) -> Tensor:
            seen = ev.judged(who, axis)
            return ((seen.argmax(1) == gallery.asked[axis]) & ~empty(seen))[~asks]

        def gone(who: str) -> Tensor:
            return erased(ev.judged(who, gallery.axis)[asks], gallery.target)

        def nothing(who: str) -> Tensor:
            return torch.stack([empty(ev.judged(who, a)) for a in gallery.judges]).any(0)

        others = [a for a in gallery.judges if a != gallery.axis]
        scores: dict[str, Callable[[str], Tensor]] = {
            "ua": gone,
            "in-domain": lambda who: right(who, gallery.axis),
        }
        if others:
            scores["cross-domain"] = lambda who: torch.cat([right(who, a) for a in others])
        scores["nothing"] = nothing
        return [self._score(ev, n, of, AIMS[n]) for n, of in scores.items() if len(of("unlearned"))]

    def _score(self, ev: Evidence, name: str, of: Callable[[str], Tensor], aim: Aim) -> Score:
        hits = of("unlearned")
        return ev.level(
            f"erasure/{name}", lambda who: of(who).double().mean(), aim, metric=self.name, headline=True,
            n=len(hits), **ends_of_share(hits),
        )  # fmt: skip


def erased(logits: Tensor, target: int) -> Tensor:
    """Whether a drawing shows another concept than the target, with shape (N,).

    Args:
        logits: Of a judge, with shape (N, K + 1); the last class shows nothing.
        target: Id of the concept.

    Example:
        >>> erased(torch.eye(4), 1).tolist()
        [True, False, True, False]
    """
    seen = logits.argmax(1)
    return (seen != target) & ~empty(logits)


def empty(logits: Tensor) -> Tensor:
    """Whether a judge sees no concept in a drawing, with shape (N,), for logits of shape (N, K + 1).

    A drawing that is not finite shows nothing.
    """
    return (logits.argmax(1) == logits.shape[1] - 1) | ~logits.isfinite().all(1)
