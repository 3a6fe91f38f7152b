"""Erasing with an untrained teacher, then repairing with the original (stochastic teacher network)."""

from __future__ import annotations

from typing import ClassVar

import torch

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.distill import divergence
from unlearn.ops.steps import descend, outputs_by_index
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Distills, mode


@methods.register("stochastic-teacher")
class StochasticTeacher(Method[Distills]):
    """Copies an untrained network on forget, then itself on retain (reconstructed); label-free.

    With z_s the outputs of the same architecture newly drawn and z₀ those of θ₀, both in evaluation mode,

        erase:   θ ← θ − η_e ∇ mean KL(softmax(z_s(x_f)) ‖ softmax(z(x_f)))   over the forget set,
        repair:  θ ← θ − η ∇ mean KL(softmax(z₀(x_r)) ‖ softmax(z(x_r)))      over the retain set,

    one after the other, each with Adam. Bad teacher has the same two terms at once.

    RECONSTRUCTED from the abstract, which says that a stochastic network teaches the erasure within one epoch
    and that the model is then reconstructed; the losses, the second teacher, the optimiser and its settings
    are ours.

    References:
        Zhang et al., 2023, Machine unlearning methodology base on stochastic teacher network,
        arXiv:2308.14322

    Differences from the authors' released code:
        No code was found. For outputs that are no logits the divergence is half the squared distance.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget.x", "retain.x"})
    presets: ClassVar = {
        "reconstructed": Preset(
            "published nowhere: one pass erases, as the abstract says; steps, batches and repair are a guess",
            {"erase_lr": 1e-3, "erase_epochs": 1, "lr": 1e-3, "epochs": 5, "batch_size": 128},
        )
    }

    erase_lr: float = knob(0.01, "step size η_e of Adam while it erases", gt=0, search=(1e-4, 3e-2))
    erase_epochs: int = knob(5, "passes over the forget set", ge=1, search=(1, 10))
    lr: float = knob(1e-3, "step size η of Adam while it repairs", gt=0, search=(1e-4, 1e-2))
    epochs: int = knob(5, "passes over the retain set", ge=0, search=(1, 10))
    batch_size: int = knob(64, "examples in a step", ge=1)

    def unlearn(self, subject: Distills, data: Split, run: Run) -> Distills:
        """See `Method.unlearn`."""
        stochastic = outputs_by_index(subject.fresh(run.rng), data.forget)
        original = outputs_by_index(subject, data.retain)
        params = list(subject.module.parameters())
        erase = (data.forget, stochastic, torch.optim.Adam(params, self.erase_lr))
        repair = (data.retain, original, torch.optim.Adam(params, self.lr))
        with mode(subject.module, train=True):
            plan = [erase] * self.erase_epochs + [repair] * self.epochs
            for handle, teacher, opt in run.track(plan, "unlearn"):
                for b in handle.batches(self.batch_size, run.rng):
                    descend(opt, divergence(subject, teacher(b.index), subject.outputs(b)).mean())
        return subject
