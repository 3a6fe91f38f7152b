"""Gradient ascent on the forget set."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from unlearn.data import Handle, Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.steps import descend, sgd
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Classifies, HasLoss, mode


@methods.register("neggrad")
class NegGrad(Method[HasLoss]):
    """Climbs the loss of the forget set until each example's loss is that of knowing nothing.

    θ ← θ + η ∇ mean_b min(ℓ(f(x_f), y_f), c)   over batches b of the forget set.

    Ascent has no end by itself and soon wrecks the model, so an example counts no longer once its loss has
    reached the ceiling c; the method stops when a whole pass found none below. For a classifier
    c = κ ln C, κ times the loss of a uniform guess; for other subjects c = κ' times the mean forget loss
    at θ₀. With κ = 0 the ascent is unbounded, as published.

    References:
        Golatkar et al., 2020, Eternal sunshine of the spotless net: selective forgetting in deep networks,
        arXiv:1911.04933
        Jia et al., 2023, Model sparsity can simplify machine unlearning, arXiv:2304.04934

    Differences from the authors' released code:
        The ceiling. The released code climbs for a fixed number of epochs.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget"})
    presets: ClassVar = {
        "paper": Preset(
            "Unlearn-Sparse, CIFAR-10, ResNet-18",
            {"epochs": 5, "lr": 1e-4, "batch_size": 256, "ceiling": 0.0},
        )
    }
    expected_failures: ClassVar = {
        "noisy": "Memorised labels have gradients of almost zero, so its passes end before the loss has climbed, and nearly all of them stay.",
        "concept": "Climbing the loss of a denoiser destroys it: its drawings show nothing.",
        "range": "The error of a value has no upper bound, and climbing it takes the model away from everything.",
    }

    lr: float = knob(0.01, "step size η", gt=0, search=(1e-5, 1e-1))
    epochs: int = knob(10, "passes over the forget set at most", ge=1, search=(1, 20))
    batch_size: int = knob(64, "examples in a step", ge=1)
    momentum: float = knob(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)
    ceiling: float = knob(1.0, "κ, ceiling of a classifier's loss over ln C; 0 for none at all", ge=0)
    growth: float = knob(10.0, "κ', ceiling of any other loss over its mean at the start", gt=1)
    augment: bool = knob(False, "crop and flip while training")

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        """See `Method.unlearn`."""
        c = self._ceiling(subject, data.forget, run)
        opt = sgd(subject.module.parameters(), self.lr, self.momentum, self.weight_decay)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "unlearn"):
                below = torch.zeros((), dtype=torch.long, device=run.device)
                for f in data.forget.batches(self.batch_size, run.rng, augment=self.augment):
                    loss = subject.loss(f, run.rng)
                    climbs = loss < c
                    below += climbs.sum()
                    descend(opt, -loss.where(climbs, 0).mean())
                run.note(below_ceiling=float(below) / len(data.forget))
                if not below:
                    break
        return subject

    def _ceiling(self, subject: HasLoss, forget: Handle, run: Run) -> float:
        """The ceiling, in the unit of the loss."""
        if not self.ceiling:
            return math.inf
        if isinstance(subject, Classifies):
            return self.ceiling * math.log(subject.classes)
        with torch.no_grad(), mode(subject.module, train=False):
            losses = [subject.loss(f, run.rng).cpu().double() for f in forget.batches(self.batch_size)]
        return self.growth * float(torch.cat(losses).mean())
