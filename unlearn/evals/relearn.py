"""Relearning time and anamnesis index (AIN)."""

from __future__ import annotations

import functools
import itertools
from typing import ClassVar, cast

import torch
from torch import Generator

from unlearn.data import Batch
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.relearning import ain as ain
from unlearn.ops.relearning import descending
from unlearn.registry import metrics
from unlearn.subject import HasLoss, mode


@metrics.register("relearn")
class Relearn(Metric):
    """Training steps until the forget loss is back where it was: few mean that much was left.

    A copy of the model descends the mean loss ℓ of at most `size` forget examples, all in every step, with
    SGD and frozen batch norm, and `steps` counts until ℓ(θ) ≤ ℓ(θ₀) + α. Counting stops at `cap`. With r
    that number,

        AIN = (r(θ_u) + 0.01) / (r(θ_r) + 0.01);

    below 1 the model remembers, far above 1 forgetting shows (Streisand effect). There is none where the
    oracle knows the forget set as well as the original does.

    References:
        Golatkar et al., 2020, Eternal sunshine of the spotless net, arXiv:1911.04933
        Chundawat et al., 2023, Zero-shot machine unlearning, arXiv:2201.05629 (AIN)

    Differences from the authors' released code:
        Every model is copied before it relearns; the regression code published with the index relearns in
        place. Steps are counted, not epochs, and a loss is reached again, not an accuracy.
    """

    needs: ClassVar[type] = HasLoss
    lr: float = knob(0.01, "step size", gt=0)
    size: int = knob(64, "forget examples, drawn with the seed of the evaluation", ge=1)
    cap: int = knob(25, "steps at which counting stops", ge=1)
    alpha: float = knob(0.05, "α, by how much the loss may exceed the original's", ge=0)

    def measure(self, ev: Evidence) -> list[Score]:
        """Steps and the index."""
        handle = ev.handles["forget"]
        device = next(handle.batches(1)).index.device
        batch = next(handle.batches(self.size, Generator(device).manual_seed(ev.seed)))
        start = forget_loss(cast(HasLoss, ev.subjects["original"]), batch, ev.seed)

        @functools.cache
        def of(who: str) -> int:
            return steps_to(
                cast(HasLoss, ev.subjects[who].clone()), batch, start + self.alpha, self.lr, self.cap, ev.seed
            )

        censored = [who for who in ev.subjects if of(who) == self.cap]
        note = f"counting stopped at {self.cap} steps for: {', '.join(censored)}" if censored else ""
        steps = ev.level("relearn/steps", of, Aim.MATCH, metric=self.name, unit="steps", n=len(batch), note=note,
                         headline=True)  # fmt: skip
        if not ev.has_oracle or of("oracle") == 0:
            said = "the oracle reaches the loss in no step" if ev.has_oracle else "no reference: cannot tell"
            return [steps, Score(name="relearn/ain", metric=self.name, value=None, aim=Aim.MATCH, note=said)]
        index = ev.level("relearn/ain", lambda who: ain(of(who), of("oracle")), Aim.MATCH, metric=self.name,
                         n=len(batch), note=note)  # fmt: skip
        return [steps, index]


def forget_loss(subject: HasLoss, batch: Batch, seed: int) -> float:
    """Mean training loss of a batch in evaluation mode.

    Args:
        subject: The model.
        batch: Of size B.
        seed: For losses that draw.
    """
    with torch.no_grad(), mode(subject.module, train=False):
        return float(subject.loss(batch, _rng(batch, seed)).mean())


def steps_to(subject: HasLoss, batch: Batch, target: float, lr: float, cap: int, seed: int) -> int:
    """Steps of gradient descent on one batch until its mean loss is at most `target`; trains in place.

    Args:
        subject: A copy of the model.
        batch: Of size B; every step sees all of it, with the same draws.
        target: Loss to reach.
        lr: Step size; momentum is 0.9.
        cap: Most steps; returned as well when the target is not reached or the loss is not finite.
        seed: For losses that draw.
    """
    losses = enumerate(itertools.islice(descending(subject, batch, lr, seed), cap))
    return next((step for step, loss in losses if loss <= target), cap)


def _rng(batch: Batch, seed: int) -> Generator:
    return Generator(batch.index.device).manual_seed(seed)
