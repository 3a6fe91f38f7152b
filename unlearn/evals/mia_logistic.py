"""Membership attacks by logistic regression, as SSD's and SCRUB's tables print them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.attacked import gated
from unlearn.ops.membership import signal
from unlearn.registry import metrics

Floats = NDArray[np.float64]
CLIP = 100.0
FOLDS = 5


@metrics.register("mia-logistic")
class MiaLogistic(Metric):
    """Two logistic attacks of published tables: on the entropy (SSD) and on the loss (SCRUB).

    `entropy` is fitted on retain against test examples with balanced classes; the score is the share of the
    forget set that it calls members. `loss` tells the forget set from as many like held-out examples by the
    clipped loss; the score is the accuracy of five-fold cross-validation. Parity scores: `mia` is the attack
    to read.

    References:
        Foster et al., 2024, Fast machine unlearning without retraining through selective synaptic
        dampening, arXiv:2308.07707
        Kurmanji et al., 2023, Towards unbounded machine unlearning (SCRUB), arXiv:2302.09880

    Differences from the authors' released code:
        Examples are drawn with the seed of the evaluation, and folds are stratified.
    """

    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each form."""

        def of(who: str, where: str, name: str) -> Floats:
            return signal(ev, who, where, name)

        scores = [gated(ev.level(
            "mia-logistic/entropy",
            lambda who: logistic_members(*(of(who, w, "entropy") for w in ("retain", "test", "forget"))),
            Aim.MATCH, metric=self.name, n=len(ev.y("forget")),
            note="parity: fitted on retain against test examples",
        ))]  # fmt: skip
        n = min(len(ev.y("forget")), len(ev.y("audit")))
        if n >= FOLDS:
            scores.append(gated(ev.level(
                "mia-logistic/loss",
                lambda who: logistic_accuracy(of(who, "forget", "loss"), of(who, "audit", "loss"), ev.seed),
                Aim.MATCH, metric=self.name, n=2 * n,
            )))  # fmt: skip
        return scores


def logistic_members(members: Floats, others: Floats, target: Floats) -> float:
    """Share of `target` that a balanced logistic regression of one number calls members.

    Args:
        members: Of members, with shape (M,).
        others: Of others, with shape (O,).
        target: Of the examples in question, with shape (N,).
    """
    from sklearn.linear_model import LogisticRegression

    x, y = np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)])
    if not (np.isfinite(x).all() and np.isfinite(target).all()):
        return float("nan")
    model = LogisticRegression(class_weight="balanced").fit(x[:, None], y)
    return float(np.mean(model.predict(target[:, None]) == 1))


def logistic_accuracy(members: Floats, others: Floats, seed: int) -> float:
    """Cross-validated accuracy of a logistic regression of one number, on as many members as others.

    Args:
        members: Of members, with shape (M,), M at least 5; clipped to ±100.
        others: Of others, with shape (O,), O at least 5; clipped to ±100.
        seed: Of the draw from the larger set and of the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    n, rng = min(len(members), len(others)), np.random.default_rng(seed)
    x = np.concatenate([rng.permutation(v)[:n] for v in (members, others)]).clip(-CLIP, CLIP)
    if np.isnan(x).any():
        return float("nan")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    y = np.repeat([1, 0], n)
    return float(cross_val_score(LogisticRegression(), x[:, None], y, cv=folds).mean())
