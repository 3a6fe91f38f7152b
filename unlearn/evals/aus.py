"""Adaptive unlearning score (AUS)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.sets import kept_test
from unlearn.ops.stats import bootstrap
from unlearn.registry import metrics


@metrics.register("aus")
class Aus(Metric):
    """Test accuracy that was kept, divided by what is left of the forgotten.

    With A_or and A_t the test accuracy before and after unlearning, and A_f the accuracy on the forgotten,

        AUS = (1 − (A_or − A_t)) / (1 + Δ).

    Where classes are removed Δ = A_f, counted on held-out examples of these classes, and A_t on those of
    the others; else Δ = |A_f − A_t|, with A_f counted on the forgotten training examples. A perfect model
    has 1; a lucky one has more. The score says nothing of privacy.

    References:
        Cotogni et al., 2023, DUCK: distance-based unlearning via centroid kinematics, arXiv:2312.02052
        Bonato et al., 2024, Is retain set all you need in machine unlearning? (SCAR), arXiv:2404.12922

    Differences from the authors' released code:
        A_or is the accuracy of the original in hand; theirs is a constant for each data set:
        `variant="duck_const"` with `a_or`, for CIFAR-10 0.8864 where a class is removed and 0.8872 where
        random examples are. ERASURE takes |A_f − A_t| and the whole test set in every case:
        `variant="erasure"`.
    """

    variant: Literal["actual", "duck_const", "erasure"] = knob("actual", "which of the definitions in use")
    a_or: float = knob(0.8864, "original's test accuracy, read by duck_const only", ge=0, le=1)
    draws: int = knob(200, "bootstrap draws of the interval", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        removal = bool(ev.removed) and self.variant != "erasure"
        kept = kept_test(ev) if removal else "test"
        gone = "test_forget" if removal else "forget"
        if not (len(ev.y(kept)) and len(ev.y(gone))):
            return [Score(name="aus", metric=self.name, value=None, aim=Aim.UP, variant=self._variant(),
                          note=f"refused: {kept} or {gone} holds no example")]  # fmt: skip

        def hits(who: str, where: str) -> NDArray[np.float64]:
            return ev.correct(who, where).double().numpy()

        def of(test: NDArray[np.float64], forgotten: NDArray[np.float64]) -> float:
            a_or, a_t = test.mean(0)
            a_or = self.a_or if self.variant == "duck_const" else a_or
            return aus(float(a_or), float(a_t), float(forgotten.mean()), removal=removal)

        def sample(who: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            return np.stack([hits("original", kept), hits(who, kept)], 1), hits(who, gone)

        low, high = bootstrap(of, *sample("unlearned"), seed=ev.seed, draws=self.draws)
        return [ev.level(
            "aus", lambda who: of(*sample(who)), Aim.UP, metric=self.name, variant=self._variant(),
            low=low, high=high, interval="bootstrap 95 %", n=len(ev.y(kept)) + len(ev.y(gone)), headline=True,
        )]  # fmt: skip

    def _variant(self) -> str:
        return "" if self.variant == "actual" else self.variant


def aus(a_or: float, a_t: float, a_f: float, *, removal: bool) -> float:
    """The adaptive unlearning score of three accuracies, each 0 to 1.

    Args:
        a_or: Test accuracy A_or of the original.
        a_t: Test accuracy A_t after unlearning.
        a_f: Accuracy A_f on the forgotten.
        removal: Whether classes are removed.

    Example:
        >>> round(aus(0.95, 0.94, 0.02, removal=True), 6), aus(0.95, 0.94, 0.02, removal=False)
        (0.970588, 0.515625)
    """
    delta = abs(a_f) if removal else abs(a_f - a_t)
    return (1 - (a_or - a_t)) / (1 + delta)
