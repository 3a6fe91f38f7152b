"""Training recipes: how an original is made, and its oracle in the very same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from unlearn.data import Handle
from unlearn.errors import BadValue
from unlearn.knobs import Declared, knob
from unlearn.ops.stacked import stack, unstack
from unlearn.ops.steps import descend
from unlearn.provenance import digest
from unlearn.runtime import Run
from unlearn.subject import Classifies, HasLoss, mode


class Recipe(Protocol):
    """Trains a subject in place."""

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """Trains on the set with randomness from `run.rng`."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON that tells two recipes apart."""
        ...


class SGD(Declared):
    """Stochastic gradient descent with Nesterov momentum and a learning-rate schedule.

    No batch is less than half of the others: of 898 examples in batches of 64 the last would have two, from which batch norm
    takes statistics that cost two points of accuracy, and an oracle with fewer examples would not have it.
    """

    epochs: int = knob(15, "passes over the training set", ge=1)
    lr: float = knob(0.1, "peak learning rate", gt=0)
    batch_size: int = knob(64, "examples in a step, at most", ge=1)
    momentum: float = knob(0.9, "Nesterov momentum", gt=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)
    schedule: Literal["onecycle", "cosine", "constant"] = knob("onecycle", "learning rate over the epochs")
    augment: bool = knob(False, "random crops and flips, where the data have them")

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """See `Recipe.fit`."""
        opt = self._optimiser(subject.module)
        plan = self._plan(opt, self.epochs * self.steps(len(handle)))
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "train"):
                for batch in handle.batches(self.size(len(handle)), run.rng, augment=self.augment):
                    descend(opt, subject.loss(batch, run.rng).mean())
                    plan.step()

    def fit_together(
        self, subjects: Sequence[Classifies], handles: Sequence[Handle], runs: Sequence[Run]
    ) -> None:
        """Trains classifiers of one architecture side by side, each as `fit` would train it alone.

        Each has its own set, order and crops; all sets are of one size. Sums are taken in another order, so weights
        agree with those of `fit` up to rounding.

        Args:
            subjects: The classifiers, trained in place.
            handles: Their sets.
            runs: Their randomness; the first shows progress.

        Raises:
            Mismatch: If their layers cannot be put side by side.
            BadValue: If their sets differ in size.
        """
        if len({len(h) for h in handles}) > 1:
            raise BadValue("models that are trained side by side need training sets of one size")
        m, net = len(subjects), stack([s.module for s in subjects])
        for p in net.parameters():  # grouped convolutions are faster so
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
        opt = self._optimiser(net)
        plan = self._plan(opt, self.epochs * self.steps(len(handles[0])))
        with mode(net, train=True):
            for _ in runs[0].track(range(self.epochs), "train"):
                each = [
                    h.batches(self.size(len(h)), r.rng, augment=self.augment)
                    for h, r in zip(handles, runs, strict=True)
                ]
                for batches in zip(*each, strict=True):
                    x = torch.cat([b.x for b in batches], 1)
                    if x.ndim == 4:
                        x = x.contiguous(memory_format=torch.channels_last)
                    logits = net(x).unflatten(1, (m, -1))
                    y = torch.stack([b.y for b in batches], 1)
                    loss = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / len(y)
                    descend(opt, loss)
                    plan.step()
        unstack(net, [s.module for s in subjects])

    def describe(self) -> dict[str, Any]:
        """See `Recipe.describe`."""
        return {"recipe": "sgd", "last": "half", **self.to_dict()}

    def size(self, n: int) -> int:
        """Size of the batches of n examples: the largest that leaves a last one of at least half of it, or none.

        Example:
            >>> SGD(batch_size=64).size(898), SGD(batch_size=64).size(640), SGD(batch_size=64).size(5)
            (61, 64, 5)
        """
        most = max(1, min(self.batch_size, n))
        return next(s for s in range(most, 0, -1) if not 0 < n % s < s / 2)

    def steps(self, n: int) -> int:
        """Steps in an epoch over n examples."""
        return -(-n // self.size(n))

    def _optimiser(self, module: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(module.parameters(), lr=self.lr, momentum=self.momentum,
                               weight_decay=self.weight_decay, nesterov=True, foreach=True)  # fmt: skip

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
