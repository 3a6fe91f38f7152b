"""Support-vector attacks on the forget set against held-out examples, as DUCK's and SCAR's tables print them."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.attacked import gated
from unlearn.ops.membership import signal
from unlearn.ops.signals import log_probabilities
from unlearn.registry import metrics

Floats = NDArray[np.float64]
LEAST = 20  # examples of a side, so that each of three folds holds some


@dataclass(frozen=True, slots=True)
class Attack:
    """What the two attacks differ in.

    Attributes:
        gammas: Widths of the kernel that are tried.
        weighed: Whether each side weighs the same, however many it has.
        fitted: Share of each side that is fitted on, where a class is removed and where none is.
        most: Forgotten examples for each held-out one at most, likewise.
        scaled: Whether features are standardised where a class is removed.
    """

    gammas: tuple[float, ...]
    weighed: bool
    fitted: tuple[float, float]
    most: tuple[int, int]
    scaled: bool


ATTACKS = {
    "duck": Attack((10, 1, 0.1), weighed=True, fitted=(0.7, 0.8), most=(1, 1), scaled=True),
    "scar": Attack((1, 0.1, 0.01), weighed=False, fitted=(0.8, 0.8), most=(3, 1), scaled=False),
}


@metrics.register("mia-grid")
class MiaGrid(Metric):
    """How well a support-vector classifier tells the forget set from held-out examples.

    `duck` looks at the loss of an example, `scar` at its predicted probabilities. Each is fitted on most of both sets, its
    penalty and kernel width chosen by three-fold cross-validation, and judged on the rest, `repeats` times on new draws;
    where classes are removed the held-out examples are theirs. The score is the mean F1: over both sides in the mean
    (`form="macro"`), ½ where nothing is told apart, or of the held-out side (`form="binary"`), which is up to 2/3 there.
    Both are of equally many examples of each side.

    `form="released"` is what the tables print. The F1 there is micro-averaged, which of two sides is the accuracy. The
    sides may be of unequal size: SCAR's, up to three forgotten examples for a held-out one and unweighed, then says
    which side has more. A parity score; `mia` is the attack to read.

    References:
        Cotogni et al., 2023, DUCK: distance-based unlearning via centroid kinematics, arXiv:2312.02052
        Bonato et al., 2024, Is retain set all you need in machine unlearning? (SCAR), arXiv:2404.12922

    Differences from the authors' released code:
        Those of `form`. Draws depend on the seed of the evaluation. DUCK repeats 10 times.
    """

    basic: ClassVar[bool] = False
    form: Literal["macro", "binary", "released"] = knob("macro", "what F1 is, and of how many of each side")
    repeats: int = knob(5, "draws of what is fitted on", ge=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each attack."""
        return [self._score(ev, name) for name in ATTACKS]

    def _score(self, ev: Evidence, name: str) -> Score:
        removal = bool(ev.removed)
        where = "audit" if removal else "test"
        n = min(len(ev.y("forget")), len(ev.y(where)))
        variant = "" if self.form == "macro" else self.form
        if n < LEAST:
            return Score(name=f"mia-grid/{name}", metric=self.name, variant=variant, value=None, aim=Aim.MATCH, n=n or None,
                         note=f"refused: fewer than {LEAST} forgotten or held-out examples")  # fmt: skip

        @functools.cache
        def of(who: str) -> float:
            forget, others = (_seen(ev, who, w, name) for w in ("forget", where))
            if not (np.isfinite(forget).all() and np.isfinite(others).all()):
                return float("nan")
            rngs = [np.random.default_rng([ev.seed, k]) for k in range(self.repeats)]
            return float(np.mean([attacked(forget, others, name, self.form, removal, rng) for rng in rngs]))

        return gated(ev.level(f"mia-grid/{name}", of, Aim.MATCH, metric=self.name, variant=variant, n=2 * n,
                              note="parity: fitted on forgotten against held-out examples"))  # fmt: skip


def attacked(
    forget: Floats, others: Floats, name: str, form: str, removal: bool, rng: np.random.Generator
) -> float:
    """F1 of one attack, fitted on a draw of both sides and judged on the rest.

    Args:
        forget: Features of the forget set, with shape (N, D).
        others: Features of held-out examples, with shape (O, D).
        name: A key of `ATTACKS`.
        form: `macro`, `binary` or `released`.
        removal: Whether a class is removed, by which `Attack` goes.
        rng: Of the draw.
    """
    from sklearn.preprocessing import StandardScaler

    attack, other = ATTACKS[name], 0 if removal else 1
    forget, others = rng.permutation(forget), rng.permutation(others)
    if form == "released":
        forget = forget[: attack.most[other] * len(others)]
    else:
        n = min(len(forget), len(others))
        forget, others = forget[:n], others[:n]
    cuts = [int(attack.fitted[other] * len(side)) for side in (forget, others)]
    parts = [(side[:cut], side[cut:]) for side, cut in zip((forget, others), cuts, strict=True)]
    (x, y), (x_test, truth) = (_labelled(*both) for both in zip(*parts, strict=True))
    if attack.scaled and removal:
        scaler = StandardScaler().fit(x)
        x, x_test = scaler.transform(x), scaler.transform(x_test)
    return f1(truth, _called(attack, x, y, x_test), form)


def f1(truth: NDArray[np.int64], called: NDArray[np.int64], form: str) -> float:
    """F1 of two sides, both with shape (N,): `binary` of side 1, `macro` in the mean, `released` micro-averaged.

    Example:
        >>> truth, called = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0])
        >>> [round(f1(truth, called, form), 4) for form in ("released", "binary", "macro")]
        [0.6, 0.5, 0.5833]
    """
    from sklearn.metrics import f1_score

    average = "micro" if form == "released" else form
    return float(f1_score(truth, called, average=average, zero_division=0))


def _labelled(forget: Floats, others: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Features of both sides (A + B, D), and 0 for the forgotten, 1 for the others."""
    return np.concatenate([forget, others]), np.repeat([0, 1], [len(forget), len(others)])


def _called(attack: Attack, x: Floats, y: NDArray[np.int64], target: Floats) -> NDArray[np.int64]:
    """The side on which the best classifier of the grid puts each example."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    model = SVC(tol=1e-4, max_iter=4000, random_state=0, class_weight="balanced" if attack.weighed else None)
    grid = GridSearchCV(model, {"C": [1, 5, 10, 100], "gamma": list(attack.gammas)}, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 4,000 steps are what the tables had
        grid.fit(x, y)
    found: NDArray[np.int64] = grid.predict(target)
    return found


def _seen(ev: Evidence, who: str, where: str, name: str) -> Floats:
    """What an attack looks at of a set, by rising example id, with shape (N, D)."""
    if name == "duck":
        return signal(ev, who, where, "loss")[:, None]
    found: Floats = log_probabilities(ev.outputs(who, where))[ev.index(where).argsort()].exp().numpy()
    return found
