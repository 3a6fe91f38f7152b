"""Membership attacks on the forget set by one threshold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from unlearn.knobs import knob
from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.membership import Floats, crossed_accuracy, signal, threshold_accuracy
from unlearn.ops.sets import like_retain
from unlearn.ops.stats import bootstrap, wilson
from unlearn.ops.threshold import auc, auc_interval, tpr_at
from unlearn.registry import metrics
from unlearn.subject import Classifies, HasLoss

Signal = Callable[[str, str], Floats]

RATES = ((0.1, "10%", 30), (0.01, "1%", 300), (0.001, "0.1%", 3000))
"""False-positive rate, its name, and the held-out examples it takes to rest on three false positives."""


@metrics.register("mia")
class Mia(Metric):
    """How well one threshold tells forgotten examples from like examples never seen.

    Population attacks on the loss, the confidence p_y, the entropy and the modified entropy of each
    example, members expected to have the smaller loss. Each is a number s of the example; over all
    thresholds,

        AUC = P(s_forget > s_held-out) + ½ P(=),   balanced accuracy = ½ (TPR + 1 − FPR),

    and the TPR at a fixed FPR, which is refused where too few held-out examples carry it. The threshold of
    the balanced accuracy is fitted on half of the forget set against `audit_fit` and scored on the other
    half against `audit`; the halves then change places. `auc-retain` is the same attack on the retain set.
    Loss and confidence order the examples alike. A subject that is no classifier has its loss only.

    References:
        Yeom et al., 2018, Privacy risk in machine learning, arXiv:1709.01604
        Song and Mittal, 2021, Systematic evaluation of privacy risks of machine learning models,
        arXiv:2003.10595
        Carlini et al., 2022, Membership inference attacks from first principles, arXiv:2112.03570

    Differences from the authors' released code:
        Thresholds are exact and not per class. The forget set is compared with held-out examples that are
        distributed as it is, never with the retain set.
    """

    needs: ClassVar[type] = HasLoss
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """Every attack on every signal."""
        names = ["loss"]
        if isinstance(ev.subjects["unlearned"], Classifies):
            names += ["confidence", "entropy", "m-entropy"]
        return [score for name in names for score in self._attack(ev, name)]

    def _attack(self, ev: Evidence, name: str) -> Iterator[Score]:
        of: Signal = functools.cache(lambda who, where: signal(ev, who, where, name))
        n_f, n_a = len(ev.y("forget")), len(ev.y("audit"))
        if not n_a or not len(ev.y("audit_fit")):
            yield Score(name=f"mia/{name}/auc", metric=self.name, value=None, aim=Aim.MATCH, n=n_f,
                        note="refused: there are no held-out examples like the forgotten ones")  # fmt: skip
            return
        sets = ("forget", "audit_fit", "audit")
        yield ev.level(
            f"mia/{name}/auc", lambda who: auc(of(who, "forget"), of(who, "audit")), Aim.MATCH,
            metric=self.name, n=n_f + n_a, headline=name == "loss", **self._ends(ev, of, "forget", "audit"),
        )  # fmt: skip
        if n_f > 1:
            yield ev.level(
                f"mia/{name}/balanced",
                lambda who: threshold_accuracy(*(of(who, where) for where in sets)), Aim.MATCH,
                metric=self.name, n=n_f + n_a, **self._crossed_ends(ev, *(of("unlearned", w) for w in sets)),
            )  # fmt: skip
        for rate, label, least in RATES:
            yield self._tpr(ev, of, f"mia/{name}/tpr@{label}", rate, least)
        held = like_retain(ev)
        if len(ev.y(held)):
            yield ev.level(
                f"mia/{name}/auc-retain", lambda who: auc(of(who, "retain"), of(who, held)), Aim.MATCH,
                metric=self.name, n=len(ev.y("retain")) + len(ev.y(held)), **self._ends(ev, of, "retain", held),
            )  # fmt: skip

    def _ends(self, ev: Evidence, of: Signal, members: str, others: str) -> Ends:
        low, high = auc_interval(of("unlearned", members), of("unlearned", others), ev.seed, self.draws)
        return {"low": low, "high": high, "interval": "bootstrap 95 %"}

    def _crossed_ends(self, ev: Evidence, forget: Floats, fit: Floats, audit: Floats) -> Ends:
        """Each half of the forget set is resampled by itself, so that no example is fitted on and scored."""
        samples = forget[::2], forget[1::2], fit, audit
        low, high = bootstrap(crossed_accuracy, *samples, seed=ev.seed, draws=self.draws)
        return {"low": low, "high": high, "interval": "bootstrap 95 %"}

    def _tpr(self, ev: Evidence, of: Signal, name: str, rate: float, least: int) -> Score:
        n, negatives = len(ev.y("forget")), len(ev.y("audit"))
        if negatives < least:
            said = f"refused: needs at least {least} held-out examples, there are {negatives}"
            return Score(name=name, metric=self.name, value=None, aim=Aim.MATCH, n=n, note=said)
        found = tpr_at(of("unlearned", "forget"), of("unlearned", "audit"), rate)
        low, high = wilson(round(found * n), n) if np.isfinite(found) else (None, None)
        return ev.level(
            name, lambda who: tpr_at(of(who, "forget"), of(who, "audit"), rate), Aim.MATCH,
            metric=self.name, low=low, high=high, interval="wilson 95 %", n=n,
        )  # fmt: skip
