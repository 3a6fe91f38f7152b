"""Scores of an attack that gives each example a number: areas, balanced accuracy, hits at few false alarms."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from unlearn.metric import Aim, Ends, Evidence, Score, Signal
from unlearn.ops.membership import Floats, crossed_accuracy, threshold_accuracy
from unlearn.ops.sets import like_retain
from unlearn.ops.stats import bootstrap, wilson
from unlearn.ops.threshold import auc, auc_interval, tpr_at

POWERLESS = 0.05
"""An attack that tells the original from the oracle by less in area says nothing of a method."""
RATES = ((0.1, "10%", 30), (0.01, "1%", 300), (0.001, "0.1%", 3000))
"""False-positive rate, its name, and the held-out examples it takes to rest on three false positives."""


class Attacked:
    """One attack on the forget set, and on the retain set.

    Args:
        ev: The evidence.
        metric: Name of the metric.
        name: Prefix of the scores.
        of: The attack's signal.
        draws: Bootstrap draws of an interval.
        headline: Whether the area belongs in the first table.
    """

    def __init__(
        self, ev: Evidence, metric: str, name: str, of: Signal, draws: int, headline: bool = False
    ) -> None:
        self.ev, self.metric, self.name, self.draws, self.headline = ev, metric, name, draws, headline
        self.of: Signal = functools.cache(of)

    def scores(self) -> Iterator[Score]:
        """Area, balanced accuracy, hits at false-positive rates, and the area on the retain set."""
        ev, of = self.ev, self.of
        n_f, n_a = len(ev.y("forget")), len(ev.y("audit"))
        if not n_a or not len(ev.y("audit_fit")):
            yield self._refused("auc", "there are no held-out examples like the forgotten ones", n_f)
            return
        sets = ("forget", "audit_fit", "audit")
        area = gated(ev.level(
            f"{self.name}/auc", lambda who: auc(of(who, "forget"), of(who, "audit")), Aim.MATCH,
            metric=self.metric, n=n_f + n_a, headline=self.headline, **self._ends("forget", "audit"),
        ))  # fmt: skip
        yield area
        if n_f > 1:
            yield ev.level(
                f"{self.name}/balanced",
                lambda who: threshold_accuracy(*(of(who, where) for where in sets)), Aim.MATCH,
                metric=self.metric, n=n_f + n_a, powerless=area.powerless, **self._crossed_ends(*(of("unlearned", w) for w in sets)),
            )  # fmt: skip
        for rate, label, least in RATES:
            yield self._tpr(f"tpr@{label}", rate, least, area.powerless)
        held = like_retain(ev)
        if len(ev.y(held)):
            yield ev.level(
                f"{self.name}/auc-retain", lambda who: auc(of(who, "retain"), of(who, held)), Aim.MATCH,
                metric=self.metric, n=len(ev.y("retain")) + len(ev.y(held)), **self._ends("retain", held),
            )  # fmt: skip

    def _refused(self, what: str, why: str, n: int) -> Score:
        return Score(
            name=f"{self.name}/{what}",
            metric=self.metric,
            value=None,
            aim=Aim.MATCH,
            n=n,
            note=f"refused: {why}",
        )

    def _ends(self, members: str, others: str) -> Ends:
        pair = self.of("unlearned", members), self.of("unlearned", others)
        low, high = auc_interval(*pair, self.ev.seed, self.draws)
        return {"low": low, "high": high, "interval": "bootstrap 95 %"}

    def _crossed_ends(self, forget: Floats, fit: Floats, audit: Floats) -> Ends:
        """Each half of the forget set is resampled by itself, so that no example is fitted on and scored."""
        samples = forget[::2], forget[1::2], fit, audit
        low, high = bootstrap(crossed_accuracy, *samples, seed=self.ev.seed, draws=self.draws)
        return {"low": low, "high": high, "interval": "bootstrap 95 %"}

    def _tpr(self, what: str, rate: float, least: int, powerless: bool) -> Score:
        ev, of, n, negatives = self.ev, self.of, len(self.ev.y("forget")), len(self.ev.y("audit"))
        if negatives < least:
            return self._refused(what, f"needs at least {least} held-out examples, there are {negatives}", n)
        found = tpr_at(of("unlearned", "forget"), of("unlearned", "audit"), rate)
        low, high = wilson(round(found * n), n) if np.isfinite(found) else (None, None)
        return ev.level(
            f"{self.name}/{what}", lambda who: tpr_at(of(who, "forget"), of(who, "audit"), rate), Aim.MATCH,
            metric=self.metric, low=low, high=high, interval="wilson 95 %", n=n, powerless=powerless,
        )  # fmt: skip


def gated(score: Score, within: float = POWERLESS) -> Score:
    """The score of an attack, marked powerless where it does not tell the original from the oracle.

    Args:
        score: Of an attack, with a value for each model.
        within: How far apart the two are at most then.

    Example:
        >>> score = Score(name="mia/loss/auc", metric="mia", value=0.4, original=0.52, reference=0.5, aim=Aim.MATCH)
        >>> gated(score).note
        'powerless: it does not tell the original, 0.52, from the oracle, 0.50'
    """
    before, oracle = score.original, score.reference
    if before is None or oracle is None or abs(before - oracle) >= within:
        return score
    said = f"powerless: it does not tell the original, {before:.2f}, from the oracle, {oracle:.2f}"
    return score.model_copy(
        update={"powerless": True, "note": f"{said}; {score.note}" if score.note else said}
    )
