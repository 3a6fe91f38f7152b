"""Retraining from scratch."""

from __future__ import annotations

from typing import ClassVar

from unlearn.data import Split
from unlearn.method import Method
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Trains


@methods.register("retrain")
class Retrain(Method[Trains]):
    """Trains a new model on the retain set alone: exact, and the price that all others are measured by.

    θ ← A(D_r, seed) with A the recipe that made the original, its initial weights drawn anew and the head
    kept at its size.

    References:
        Bourtoule et al., 2021, Machine unlearning, arXiv:1912.03817

    Differences from the authors' released code:
        None; there is nothing to tune. Initial weights and order of the data come from the seed of the run,
        so the result is another draw than the oracle that it is compared with.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"retain"})
    exact: ClassVar[bool] = True

    def unlearn(self, subject: Trains, data: Split, run: Run) -> Trains:
        """See `Method.unlearn`.

        Raises:
            Mismatch: If the recipe of the subject is unknown.
        """
        fresh = subject.fresh(run.rng)
        fresh.fit(data.retain, run)
        return fresh
