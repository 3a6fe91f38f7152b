"""Membership attacks by boosted trees on sorted predictions: as LAF prints it, and judged on held-out examples."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.attacked import gated
from unlearn.ops.signals import log_probabilities
from unlearn.ops.stats import bootstrap, wilson
from unlearn.registry import metrics

Floats = NDArray[np.float64]
SHOWN = 5000  # examples of each side in LAF's pool


@metrics.register("mia-boosted")
class MiaBoosted(Metric):
    """Two attacks by boosted trees on sorted predictions: that of LAF, and a clean one.

    `held-out` tells the forget set from held-out examples like it: fitted on one half of the forget set with balanced
    classes and judged on the other, then the other way round; the score is the balanced accuracy. `laf` is the attack
    success rate of LAF, a parity score: fitted with the attacked model as its own shadow on 99 % of a pool of retain
    against held-out examples, at most 5,000 each, and judged by its accuracy on the forget set and at most as many test
    examples, whatever their balance. It can only be compared with LAF's own. `mia` is the attack to read.

    References:
        Shen et al., 2024, Label-agnostic forgetting: a supervision-free unlearning in deep models (LAF), ICLR

    Differences from the authors' released code:
        Theirs is XGBoost with 100 trees; here it is scikit-learn's gradient boosting on histograms with the same number,
        depth, step size and penalty, whose trees are not the same. Which training examples their pool holds is not in
        the release; here they are retain examples.
    """

    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each form."""
        n_f, n_a = len(ev.y("forget")), len(ev.y("audit"))
        found = [gated(self._laf(ev))]
        if n_f < 2 or not n_a or not len(ev.y("audit_fit")):
            why = "refused: there are too few forgotten or held-out examples like them"
            return [
                *found,
                Score(
                    name="mia-boosted/held-out", metric=self.name, value=None, aim=Aim.MATCH, n=n_f, note=why
                ),
            ]
        hits = functools.cache(functools.partial(self._held_out, ev))
        ends: dict[str, Any] = {}
        if all(np.isfinite(h).all() for h in hits("unlearned")):
            low, high = bootstrap(_balanced, *hits("unlearned"), seed=ev.seed)
            ends = {"low": low, "high": high, "interval": "bootstrap 95 %"}
        clean = ev.level("mia-boosted/held-out", lambda who: _balanced(*hits(who)), Aim.MATCH, metric=self.name,
                         n=n_f + n_a, **ends)  # fmt: skip
        return [*found, gated(clean)]

    def _laf(self, ev: Evidence) -> Score:
        n = len(ev.y("forget")) + min(len(ev.y("forget")), len(ev.y("test")))

        @functools.cache
        def of(who: str) -> float:
            sides = (sorted_probabilities(ev, who, w) for w in ("retain", "fit", "forget", "test"))
            return attack_success(*sides, seed=ev.seed)

        mine = of("unlearned")
        low, high = (None, None) if mine != mine else wilson(round(mine * n), n)
        return ev.level("mia-boosted/laf", of, Aim.MATCH, metric=self.name, variant="laf", n=n, low=low, high=high,
                        interval="wilson 95 %", note="parity: the attacked model is its own shadow")  # fmt: skip

    def _held_out(self, ev: Evidence, who: str) -> tuple[Floats, Floats]:
        """Whether the attack is right of each forgotten example, and how often in two turns of each held-out one."""
        forget, fit, audit = (sorted_probabilities(ev, who, w) for w in ("forget", "audit_fit", "audit"))
        halves, hits = (forget[::2], forget[1::2]), []
        for mine, other in (halves, halves[::-1]):
            called = _fitted(mine, fit, other, audit, seed=ev.seed, balanced=True)
            hits.append((called[: len(other)], 1 - called[len(other) :]))
        return np.concatenate([hits[1][0], hits[0][0]]), (hits[0][1] + hits[1][1]) / 2


def attack_success(members: Floats, others: Floats, forget: Floats, test: Floats, *, seed: int) -> float:
    """Accuracy of LAF's attack on the forget set and test examples, or NaN where a number is not finite.

    Args:
        members: Sorted probabilities of training examples to fit on, with shape (M, C).
        others: Of held-out examples to fit on, with shape (O, C).
        forget: Of the forget set, who count as members, with shape (N, C).
        test: Of test examples, of which the first N are used, with shape (T, C).
        seed: Of the share of the pool that is left out, and of the trees.
    """
    from sklearn.model_selection import train_test_split

    members, others, test = members[:SHOWN], others[:SHOWN], test[: len(forget)]
    keep, _ = train_test_split(np.arange(len(members) + len(others)), test_size=0.01, random_state=seed)
    first, second = members[keep[keep < len(members)]], others[keep[keep >= len(members)] - len(members)]
    called = _fitted(first, second, forget, test, seed=seed, balanced=False)
    return float(np.mean(np.concatenate([called[: len(forget)], 1 - called[len(forget) :]])))


def sorted_probabilities(ev: Evidence, who: str, where: str) -> Floats:
    """Predicted probabilities of each example of a set by rising size, in the order of ids, with shape (N, C)."""
    p = log_probabilities(ev.outputs(who, where))[ev.index(where).argsort()].exp()
    return p.sort(1).values.numpy()


def _fitted(members: Floats, others: Floats, *asked: Floats, seed: int, balanced: bool) -> Floats:
    """1 for each of the examples in question that trees call a member, else 0; NaN where a number is not finite."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, target = np.concatenate([members, others]), np.concatenate(asked)
    if not (np.isfinite(x).all() and np.isfinite(target).all()):
        return np.full(len(target), np.nan)
    y = np.repeat([1, 0], [len(members), len(others)])
    trees = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.3, max_depth=6, max_leaf_nodes=None, min_samples_leaf=1, l2_regularization=1.0,
        early_stopping=False, class_weight="balanced" if balanced else None, random_state=seed,
    )  # fmt: skip
    called: Floats = trees.fit(x, y).predict(target).astype(np.float64)
    return called


def _balanced(forget: Floats, audit: Floats) -> float:
    return float((forget.mean() + audit.mean()) / 2)
