"""Training recipes: how an original is made, and its oracle in the very same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import nn

from unlearn.data import Handle
from unlearn.errors import BadValue
from unlearn.knobs import Declared, knob
from unlearn.ops.steps import descend
from unlearn.provenance import digest
from unlearn.runtime import Run
from unlearn.subject import HasLoss, mode


class Recipe(Protocol):
    """Trains a subject in place."""

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """Trains on the set with randomness from `run.rng`."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON that tells two recipes apart."""
        ...


class SGD(Declared):
    """Stochastic gradient descent with Nesterov momentum and a learning-rate schedule."""

    epochs: int = knob(15, "passes over the training set", ge=1)
    lr: float = knob(0.1, "peak learning rate", gt=0)
    batch_size: int = knob(64, "examples in a step", ge=1)
    momentum: float = knob(0.9, "Nesterov momentum", gt=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)
    schedule: Literal["onecycle", "cosine", "constant"] = knob("onecycle", "learning rate over the epochs")
    augment: bool = knob(False, "random crops and flips, where the data have them")

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """See `Recipe.fit`."""
        opt = torch.optim.SGD(subject.module.parameters(), lr=self.lr, momentum=self.momentum,
                              weight_decay=self.weight_decay, nesterov=True, foreach=True)  # fmt: skip
        steps = self.epochs * -(-len(handle) // self.batch_size)
        plan = self._plan(opt, steps)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "train"):
                for batch in handle.batches(self.batch_size, run.rng, augment=self.augment):
                    descend(opt, subject.loss(batch, run.rng).mean())
                    plan.step()

    def describe(self) -> dict[str, Any]:
        """See `Recipe.describe`."""
        return {"recipe": "sgd", **self.to_dict()}

    def _plan(self, opt: torch.optim.SGD, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        if self.schedule == "onecycle":
            return torch.optim.lr_scheduler.OneCycleLR(opt, self.lr, total_steps=steps + 1)
        if self.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
        return torch.optim.lr_scheduler.ConstantLR(opt, 1.0)


class Function:
    """A user's own training function.

    Args:
        fit: `fit(module, batches, seed)`: trains the module in place. `batches(size)` yields `(x, y)` pairs
            in a new random order each time it is called.
        source: Hash or text that tells this function from others.
    """

    def __init__(self, fit: Callable[[nn.Module, Callable[[int], Any], int], None], source: str) -> None:
        self._fit, self._source = fit, source

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """See `Recipe.fit`."""

        def batches(size: int) -> Any:
            return ((b.x, b.y) for b in handle.batches(size, run.rng))

        with mode(subject.module, train=True):
            for _ in run.track(range(1), "train"):
                try:
                    self._fit(subject.module, batches, run.seed)
                except Exception as err:
                    said = " ".join(str(err).split())
                    raise BadValue(f"your fit() raised {type(err).__name__}: {said}") from err
        subject.module.zero_grad(set_to_none=True)

    def describe(self) -> dict[str, Any]:
        """See `Recipe.describe`."""
        return {"recipe": "function", "source": digest(self._source)}
