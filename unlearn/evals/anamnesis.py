"""Anamnesis index of a regressor, in epochs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator

from unlearn.data import Batch
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.relearning import ain
from unlearn.ops.steps import descend
from unlearn.ops.together import joined, shuffled
from unlearn.registry import metrics
from unlearn.subject import Regresses, mode


@metrics.register("anamnesis")
class Anamnesis(Metric):
    """Epochs of training on the forget set until its error is back within 5 % of what it was.

    A copy of each model descends its loss on the same forget examples in the same order, with Adam and frozen batch norm,
    and `epochs` counts until the mean absolute error e(θ) ≤ (1 + α) e(θ₀). Counting stops at `cap`. With r that number,

        AIN = (r(θ_u) + 0.01) / (r(θ_r) + 0.01);

    below 1 the model remembers, far above 1 forgetting shows. `relearn` counts steps, of any model.

    References:
        Chundawat et al., 2023, Zero-shot machine unlearning, arXiv:2201.05629 (AIN)
        Tarun et al., 2023, Deep regression unlearning, arXiv:2210.08196

    Differences from the authors' released code:
        Every model is copied before it learns again. Theirs learns in place, so that the reference of one row has already
        learnt in the row before, and the published numbers are no property of the methods. `form="in-place@released"` does
        so in two rows, that of the original and that of the unlearned model: steps are counted, at least one, and
        AIN = r(θ_u) / r(θ_r). Batch norm stays frozen there too.
    """

    needs: ClassVar[type] = Regresses
    basic: ClassVar[bool] = False
    alpha: float = knob(0.05, "α, by what share the error may exceed the original's", ge=0)
    lr: float = knob(1e-3, "step size of Adam", gt=0)
    batch_size: int = knob(64, "examples in a step", ge=1)
    size: int = knob(512, "forget examples at most, drawn with the seed of the evaluation", ge=1)
    cap: int = knob(30, "epochs at which counting stops", ge=1)
    form: Literal["copies", "in-place@released"] = knob(
        "copies", "what learns again; in place, the rows share it"
    )

    def measure(self, ev: Evidence) -> list[Score]:
        """Epochs and the index."""
        batch = _drawn(ev, self.size)
        target = (1 + self.alpha) * mean_error(cast(Regresses, ev.subjects["original"]), batch)
        if self.form != "copies":
            return [self._in_place(ev, batch, target)]

        @functools.cache
        def of(who: str) -> int:
            return self.epochs_to(cast(Regresses, ev.subjects[who].clone()), batch, target, ev.seed)

        stopped = [who for who in ev.subjects if of(who) == self.cap]
        note = f"counting stopped at {self.cap} epochs for: {', '.join(stopped)}" if stopped else ""
        rest: dict[str, Any] = {"metric": self.name, "n": len(batch)}
        epochs = ev.level("anamnesis/epochs", of, Aim.MATCH, unit="epochs", note=note, headline=True, **rest)
        if not ev.has_oracle or of("oracle") == 0:
            said = "the oracle has the error in no epoch" if ev.has_oracle else "no reference: cannot tell"
            return [epochs, Score(name="anamnesis/ain", value=None, aim=Aim.MATCH, note=said, **rest)]
        index = ev.level(
            "anamnesis/ain", lambda who: ain(of(who), of("oracle")), Aim.MATCH, note=note, **rest
        )
        return [epochs, index]

    def epochs_to(self, subject: Regresses, batch: Batch, target: float, seed: int) -> int:
        """Epochs over a batch until its mean absolute error is at most `target`, or `cap`; trains in place.

        Args:
            subject: A copy of the model.
            batch: All examples, of size B.
            target: Error to reach, on the scale of the outputs.
            seed: Of their order.
        """
        steps = self._steps(subject, batch, seed)
        for epoch in range(self.cap):
            if mean_error(subject, batch) <= target:
                return epoch
            for _ in range(-(-len(batch) // self.batch_size)):
                next(steps)
        return self.cap

    def steps_to(self, subject: Regresses, batch: Batch, target: float, seed: int) -> int:
        """Steps, at least one, until the error of a batch is at most `target`, or those of `cap` epochs; trains in place.

        Args:
            subject: The model.
            batch: All examples, of size B.
            target: Error to reach, on the scale of the outputs.
            seed: Of their order.
        """
        most = self.cap * -(-len(batch) // self.batch_size)
        for step, _ in zip(range(1, most + 1), self._steps(subject, batch, seed), strict=False):
            if mean_error(subject, batch) <= target:
                return step
        return most

    def _steps(self, subject: Regresses, batch: Batch, seed: int) -> Iterator[None]:
        """Endless steps of Adam over a batch, epoch after epoch in a new order."""
        rng = Generator(batch.index.device).manual_seed(seed)
        opt = torch.optim.Adam([p for p in subject.module.parameters() if p.requires_grad], self.lr)
        everything = torch.arange(len(batch), device=batch.index.device)
        while True:
            for some in shuffled(batch, everything, self.batch_size, rng):
                with mode(subject.module, train=False):
                    descend(opt, subject.loss(some, rng).mean())
                yield

    def _in_place(self, ev: Evidence, batch: Batch, target: float) -> Score:
        """The released index of two rows, whose oracle learns on from the first in the second."""
        rest: dict[str, Any] = {"metric": self.name, "variant": self.form, "aim": Aim.MATCH, "n": len(batch)}
        if not ev.has_oracle:
            return Score(name="anamnesis/ain", value=None, note="no reference: cannot tell", **rest)
        gold, found = cast(Regresses, ev.subjects["oracle"].clone()), []
        for who in ("original", "unlearned"):
            row = gold, cast(Regresses, ev.subjects[who].clone())
            found.append([self.steps_to(model, batch, target, ev.seed) for model in row])
        first, second = (mine / reference for reference, mine in found)
        note = f"parity: the oracle took {found[0][0]} steps in the first row and {found[1][0]} more in the second"
        return Score(name="anamnesis/ain", value=second, original=first, reference=1.0, note=note, **rest)


def mean_error(subject: Regresses, batch: Batch) -> float:
    """Mean absolute error of a batch in evaluation mode, on the scale of the outputs."""
    with torch.no_grad(), mode(subject.module, train=False):
        out = subject.outputs(batch).double()
    return float((out - batch.y.reshape(out.shape)).abs().mean())


def _drawn(ev: Evidence, size: int) -> Batch:
    """Some forget examples as one batch; which and in what order depends on the seed and their ids alone."""
    whole = joined(list(ev.handles["forget"].batches(ev.batch_size)))
    order = whole.index.argsort()
    rng = Generator(order.device).manual_seed(ev.seed)
    chosen = order[torch.randperm(len(order), generator=rng, device=order.device)[:size]]
    return Batch(whole.x[chosen], whole.y[chosen], whole.index[chosen])
