"""Accuracy of drawings by concept: the erased one, the worst of the others, and both sides in one number."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.gallery import seen
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.drawn import on_concept
from unlearn.ops.stats import Rows, ends_of_share, over_examples
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("concept-accuracy")
class ConceptAccuracy(Metric):
    """Shares of drawings that show what was asked for: the erased concept, and the worst-kept other.

    By the judge of the erased concept's axis, `target` is the share of its prompts whose drawing still shows it,
    among those that show something, and `worst` the lowest share drawn right among the other concepts, which a
    mean would hide. With e the share of the concept's prompts drawn as another one, and k the share of the others
    drawn right,

        harmonic = 2 e k / (e + k).

    A drawing that shows nothing counts for neither.

    References:
        Gandikota et al., 2023, Erasing concepts from diffusion models, arXiv:2303.07345 (accuracy of the erased
        and of other classes)
        Zhao et al., 2024, Continual forgetting for pre-trained vision models (GS-LoRA), arXiv:2403.11530
        (harmonic mean)
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Those of the three that the prompts allow."""
        asks, target = ev.drawn.asks, f"{self.name}/target"
        made = on_concept(ev, target, lambda who: _right(ev, who), Aim.DOWN, metric=self.name)
        made += [self._worst(ev)] if not asks.all() else []
        return made + ([self._harmonic(ev)] if 0 < asks.sum() < len(asks) else [])

    def _worst(self, ev: Evidence) -> Score:
        gallery, kept = ev.drawn, ~ev.drawn.asks
        asked = gallery.asked[gallery.axis][kept]

        def shares(who: str) -> Tensor:
            return share_by(asked, _right(ev, who)[kept])

        at = int(shares("unlearned").nan_to_num(2.0).argmin())
        hits = _right(ev, "unlearned")[kept][asked == at]
        before = float(shares("original")[at])
        return ev.level(
            f"{self.name}/worst", lambda who: shares(who).nan_to_num(2.0).min(), Aim.UP, metric=self.name, n=len(hits),
            headline=True, note=f"{gallery.names[gallery.axis][at]}, which the original draws right in {100 * before:.0f} %",
            **ends_of_share(hits),
        )  # fmt: skip

    def _harmonic(self, ev: Evidence) -> Score:
        asks = ev.drawn.asks

        def of(who: str, gone: Rows = ..., kept: Rows = ...) -> float:
            right, shown = (
                _right(ev, who),
                seen(ev.judged(who, ev.drawn.axis)) < len(ev.drawn.names[ev.drawn.axis]),
            )
            erased = float((~right & shown)[asks][gone].double().mean())
            return harmonic(erased, float(right[~asks][kept].double().mean()))

        sizes = int(asks.sum()), int((~asks).sum())
        ends = over_examples(lambda g, k: of("unlearned", g, k), *sizes, seed=ev.seed)
        return ev.level(f"{self.name}/harmonic", of, Aim.UP, metric=self.name, n=sum(sizes), **ends)


def _right(ev: Evidence, who: str) -> Tensor:
    """Whether the judge of the erased axis sees what was asked for, with shape (N,)."""
    return seen(ev.judged(who, ev.drawn.axis)) == ev.drawn.asked[ev.drawn.axis]


def share_by(asked: Tensor, hits: Tensor) -> Tensor:
    """Share of hits for each concept, with shape (K,); NaN for concepts that nobody asks for.

    Args:
        asked: Concept ids, with shape (N,).
        hits: Whether each drawing is right, with shape (N,).

    Example:
        >>> share_by(torch.tensor([0, 0, 2]), torch.tensor([True, False, True])).tolist()
        [0.5, nan, 1.0]
    """
    return torch.bincount(asked, weights=hits.double()) / torch.bincount(asked)


def harmonic(erased: float, kept: float) -> float:
    """Harmonic mean of two shares; 0 where one of them is.

    Example:
        >>> harmonic(1.0, 0.5), harmonic(0.0, 0.0)
        (0.6666666666666666, 0.0)
    """
    return 2 * erased * kept / (erased + kept) if erased + kept else 0.0
