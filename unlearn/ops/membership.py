"""Population attacks on membership: numbers that tell training examples from others, and fitted rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn.metric import Evidence
from unlearn.ops.signals import (
    entropies,
    log_probabilities,
    losses,
    modified_entropies,
    modified_entropies_salun,
)
from unlearn.ops.threshold import best_rule
from unlearn.subject import Classifies

Floats = NDArray[np.float64]

SIGNALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": lambda log_p, y: -losses(log_p, y),
    "confidence": lambda log_p, y: losses(log_p, y).neg().exp(),
    "entropy": lambda log_p, _y: -entropies(log_p),
    "m-entropy": lambda log_p, y: -modified_entropies(log_p, y),
    "m-entropy@salun": lambda log_p, y: -modified_entropies_salun(log_p, y),
    "correctness": lambda log_p, y: (log_p.argmax(1) == y).double(),
}
"""From log-probabilities (N, C) and labels (N,) to a number for each example, larger for members."""


def signal(ev: Evidence, who: str, where: str, name: str) -> Floats:
    """One number for each example of a set, larger for members, with shape (N,) and by rising example id.

    The order makes halves, folds and the first n examples independent of how the set is sorted.

    Args:
        ev: The evidence.
        who: The model.
        where: The set or view.
        name: A key of `SIGNALS`; a subject that is no classifier has `loss` only.
    """
    if isinstance(ev.subjects[who], Classifies):
        values = SIGNALS[name](log_probabilities(ev.outputs(who, where)), ev.y(where))
    else:
        values = -ev.losses(who, where).double()
    return values[ev.index(where).argsort()].numpy()


def threshold_accuracy(members: Floats, fit: Floats, others: Floats) -> float:
    """Balanced accuracy of the best threshold, fitted on one half of the members and scored on the other.

    Both halves take their turn, and the mean is returned. Values that are no members are fitted on and
    scored on apart.

    Args:
        members: One number for each member, with shape (M,), M at least 2.
        fit: Of the others on which the threshold is fitted.
        others: Of the others on which it is scored.
    """
    return crossed_accuracy(members[::2], members[1::2], fit, others)


def crossed_accuracy(first: Floats, second: Floats, fit: Floats, others: Floats) -> float:
    """`threshold_accuracy` of members in two halves, with shapes (A,) and (B,)."""
    turns = [(first, second), (second, first)]
    return float(np.mean([best_rule(a, fit).balanced_accuracy(b, others) for a, b in turns]))


def svc_outsiders(members: Floats, others: Floats, target: Floats) -> float:
    """Share of `target` that a support-vector classifier calls no member (C = 3, RBF kernel, γ = 1 / D).

    Args:
        members: Features of members, with shape (M, D).
        others: Features of others, with shape (O, D).
        target: Features of the examples in question, with shape (N, D).

    References:
        Fan et al., 2024, SalUn, arXiv:2310.12508
    """
    from sklearn.svm import SVC

    x = np.concatenate([members, others])
    if not (np.isfinite(x).all() and np.isfinite(target).all()):
        return float("nan")
    y = np.repeat([1, 0], [len(members), len(others)])
    called = SVC(C=3, gamma="auto", kernel="rbf", random_state=0).fit(x, y).predict(target)
    return float(np.mean(called == 0))
