"""The training recipe of diffusion models, whose loss plain gradient descent hardly moves."""

from __future__ import annotations

from typing import Any

import torch

from unlearn.data import Handle
from unlearn.knobs import Declared, knob
from unlearn.ops.steps import descend
from unlearn.runtime import Run
from unlearn.subject import HasLoss, mode


class AdamW(Declared):
    """Adam with decoupled weight decay, its learning rate raised and lowered once."""

    epochs: int = knob(60, "passes over the training set", ge=1)
    lr: float = knob(2e-3, "peak learning rate", gt=0)
    batch_size: int = knob(64, "examples in a step", ge=1)
    weight_decay: float = knob(
        1e-4, "share of the weights taken off in a step, times the learning rate", ge=0
    )

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """See `unlearn.ops.recipe.Recipe.fit`."""
        params = subject.module.parameters()
        opt = torch.optim.AdamW(params, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        steps = self.epochs * -(-len(handle) // self.batch_size)
        plan = torch.optim.lr_scheduler.OneCycleLR(opt, self.lr, total_steps=steps + 1)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "train"):
                for batch in handle.batches(self.batch_size, run.rng):
                    descend(opt, subject.loss(batch, run.rng).mean())
                    plan.step()

    def describe(self) -> dict[str, Any]:
        """See `unlearn.ops.recipe.Recipe.describe`."""
        return {"recipe": "adamw", **self.to_dict()}
