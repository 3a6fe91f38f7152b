"""NoMUS and indiscernibility: what a membership attack finds, as a number that is large where it finds nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.membership import crossed_accuracy, signal
from unlearn.ops.sets import kept_test
from unlearn.ops.stats import bootstrap
from unlearn.registry import metrics

Floats = NDArray[np.float64]


@metrics.register("nomus")
class Nomus(Metric):
    """Mean of test accuracy and of how little an attack tells forgotten from unseen examples.

    With TA the accuracy on test examples of the classes that are kept, and MIA the accuracy of an attack, chance ½,

        indiscernibility = 1 − |MIA − ½| / ½,   NoMUS = λ TA + (1 − λ) indiscernibility.

    The attack is the threshold on the loss of `mia`, its balanced accuracy crossed over halves of the forget set, so
    that ½ is chance. Half of NoMUS is utility: a model that forgot nothing has a high one too. Read both parts.

    References:
        Choi and Na, 2023, Towards machine unlearning benchmarks, arXiv:2311.02240
        Cadet et al., 2024, Deep unlearn: benchmarking machine unlearning, arXiv:2410.01276 (indiscernibility)

    Differences from the authors' released code:
        That of ERASURE takes the accuracy of a logistic regression, for which ½ is chance in balanced sets alone.
    """

    basic: ClassVar[bool] = False
    weight: float = knob(0.5, "weight λ of the test accuracy", ge=0, le=1)
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """Indiscernibility by itself, and NoMUS."""
        if len(ev.y("forget")) < 2 or not (len(ev.y("audit")) and len(ev.y("audit_fit"))):
            why = "refused: there are too few forgotten or held-out examples like them"
            return [Score(name="nomus", metric=self.name, value=None, aim=Aim.UP, note=why)]

        @functools.cache
        def attacked(who: str) -> tuple[Floats, ...]:
            forget, fit, audit = (signal(ev, who, w, "loss") for w in ("forget", "audit_fit", "audit"))
            return forget[::2], forget[1::2], fit, audit

        return [
            self._score(ev, "nomus", lambda who: (ev.correct(who, kept_test(ev)).double().numpy(), *attacked(who)),
                        lambda right, *samples: nomus(float(right.mean()), crossed_accuracy(*samples), self.weight)),
            self._score(ev, "nomus/indiscernibility", attacked,
                        lambda *samples: indiscernibility(crossed_accuracy(*samples))),
        ]  # fmt: skip

    def _score(
        self,
        ev: Evidence,
        name: str,
        of: Callable[[str], tuple[Floats, ...]],
        statistic: Callable[..., float],
    ) -> Score:
        value, n = statistic(*of("unlearned")), len(ev.y("forget")) + len(ev.y("audit"))
        low, high = bootstrap(statistic, *of("unlearned"), seed=ev.seed, draws=self.draws)
        return ev.level(name, lambda who: statistic(*of(who)), Aim.UP, metric=self.name, n=n,
                        low=min(low, value), high=max(high, value), interval="bootstrap 95 %")  # fmt: skip


def indiscernibility(attack: float) -> float:
    """1 where an attack does no better or worse than chance, 0 where it is always right or always wrong.

    Args:
        attack: Its accuracy, 0 to 1, with chance at one half.
    """
    return 1 - abs(attack - 0.5) / 0.5


def nomus(accuracy: float, attack: float, weight: float = 0.5) -> float:
    """Weighted mean of accuracy and indiscernibility, 0 to 1.

    Args:
        accuracy: On test examples, 0 to 1.
        attack: Accuracy of a membership attack, 0 to 1, with chance at one half.
        weight: Of the accuracy, 0 to 1.

    Example:
        >>> round(nomus(0.90, 0.55), 9)
        0.9
    """
    return weight * accuracy + (1 - weight) * indiscernibility(attack)
