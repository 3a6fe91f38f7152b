"""The fast training recipe, for pools of many image classifiers on one device."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unlearn.data import Handle
from unlearn.errors import BadValue
from unlearn.knobs import Declared, knob
from unlearn.ops.stacked import NORMS, stack, unstack
from unlearn.ops.steps import descend
from unlearn.runtime import Run
from unlearn.subject import Classifies, HasLoss, mode

REFERENCE = 128  # examples of the step that `Fast.lr` is for
CLEAN = 16  # batches from which batch norm takes its statistics at the end

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


class Fast(Declared):
    """Large steps of Nesterov SGD under a triangular learning rate, with smoothed labels.

    The rate rises from zero to its peak over the share `warmup` of the steps, and falls to zero. Incomplete batches are
    left out, so that every step has one shape; each epoch is shuffled anew. Biases and batch norms do not decay. At the
    end batch norm takes its statistics anew, under the final weights and from images that are neither cropped nor
    flipped. Weights are float32 throughout; on CUDA activations are bfloat16 and the loss is compiled where a compiler
    works. On other devices everything is in the precision of the weights.

    The module must return logits. Rate, batch, momentum and decay are Page's, whose labels are as they are and whose
    images are cut out as well; the share of smoothing is Jordan's. The number of epochs is ours.

    References:
        Page, 2018, How to train your ResNet, code at davidcpage/cifar10-fast
        Jordan, 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU, arXiv:2404.00498
    """

    epochs: int = knob(14, "passes over the training set", ge=1)
    lr: float = knob(0.1, f"peak learning rate of a step on {REFERENCE} examples, else in proportion", gt=0)
    batch_size: int = knob(512, "examples in a step; all where there are fewer", ge=1)
    momentum: float = knob(0.9, "Nesterov momentum", gt=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty on weights", ge=0)
    warmup: float = knob(0.2, "share of the steps in which the learning rate rises", gt=0, lt=1)
    smoothing: float = knob(0.2, "share of the target that is spread evenly over all classes", ge=0, lt=1)
    augment: bool = knob(True, "random crops and flips, where the data have them")
    compiled: bool = knob(True, "whether steps of one model are compiled on CUDA")

    def fit(self, subject: HasLoss, handle: Handle, run: Run) -> None:
        """See `unlearn.ops.recipe.Recipe.fit`."""
        net = copy.deepcopy(subject.module)  # the subject's own weights keep their memory format
        self._train(net, [handle], [run], fastest(run.device.type) if self.compiled else smoothed_loss)
        subject.module.load_state_dict(net.state_dict())

    def fit_together(
        self, subjects: Sequence[Classifies], handles: Sequence[Handle], runs: Sequence[Run]
    ) -> None:
        """Trains classifiers of one architecture side by side, see `unlearn.ops.recipe.SGD.fit_together`.

        Raises:
            Mismatch: If their layers cannot be put side by side.
            BadValue: If their sets differ in size.
        """
        if len({len(h) for h in handles}) > 1:
            raise BadValue("models that are trained side by side need training sets of one size")
        modules = [s.module for s in subjects]
        net = stack(modules)
        self._train(net, handles, runs, smoothed_loss)
        unstack(net, modules)

    def describe(self) -> dict[str, Any]:
        """See `unlearn.ops.recipe.Recipe.describe`."""
        return {"recipe": "fast", **self.to_dict()}

    def steps(self, n: int) -> int:
        """Steps in an epoch over n examples."""
        return n // min(self.batch_size, n)

    def _train(self, net: nn.Module, handles: Sequence[Handle], runs: Sequence[Run], loss: Loss) -> None:
        """Trains a network, or several that are side by side, each on its own set."""
        size, steps = min(self.batch_size, len(handles[0])), self.steps(len(handles[0]))
        for p in net.parameters():
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
        opt = self._optimiser(net, self.lr * size / REFERENCE)
        plan = torch.optim.lr_scheduler.LambdaLR(opt, functools.partial(self._share, self.epochs * steps))
        with mode(net, train=True):
            for _ in runs[0].track(range(self.epochs), "train"):
                for x, y in islice(_batches(handles, runs, size, self.augment), steps):
                    descend(opt, loss(net, x, y, self.smoothing))
                    plan.step()
            clean = _batches(handles, runs, size, augment=False)
            restate(net, (x for x, _ in islice(clean, min(steps, CLEAN))))

    def _optimiser(self, net: nn.Module, lr: float) -> torch.optim.SGD:
        named = [(name.endswith("bias") or p.ndim == 1, p) for name, p in net.named_parameters()]
        groups = [
            {"params": [p for free, p in named if not free], "weight_decay": self.weight_decay},
            {"params": [p for free, p in named if free], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=True, foreach=True)

    def _share(self, steps: int, step: int) -> float:
        """The learning rate of a step as a share of its peak; no step of training has none."""
        at = (step + 1) / (steps + 1)
        return min(at / self.warmup, (1 - at) / (1 - self.warmup))


def smoothed_loss(net: nn.Module, x: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with smoothed labels of each model, summed over models side by side.

    Args:
        net: Maps (B, M *) to logits (B, M C) of M models.
        x: Inputs, with shape (B, M *); float32 ones on CUDA go through the network in bfloat16.
        y: Class ids, with shape (B, M).
        smoothing: Share of the target that is spread evenly over all classes.
    """
    half = x.device.type == "cuda" and x.dtype == torch.float32
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        logits = net(x).unflatten(1, (y.shape[1], -1)).flatten(0, 1)
        return cross_entropy(logits, y.flatten(), label_smoothing=smoothing, reduction="sum") / len(y)


@functools.cache
def fastest(device: str) -> Loss:
    """The smoothed loss, compiled once for all models where a CUDA device and a compiler work.

    Elsewhere it is the plain function. Whether a compiler works is tried on a trivial one.
    """
    if device != "cuda":
        return smoothed_loss
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of parts of its own compiler
            torch.compile(torch.sin)(torch.zeros(2, device=device))
    except (RuntimeError, ImportError, OSError):  # no Triton, no C compiler, or a Python that is too new
        return smoothed_loss
    return torch.compile(smoothed_loss, dynamic=False)


@torch.no_grad()
def restate(net: nn.Module, inputs: Iterator[Tensor]) -> None:
    """Gives batch norms the mean and variance of some inputs under the present weights, in place.

    Args:
        net: In train mode.
        inputs: Batches, with shape (B, *), each of which counts the same.
    """
    norms = [m for m in net.modules() if isinstance(m, NORMS) and m.track_running_stats]
    kept = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch's word for the plain mean over batches
    for x in inputs:
        net(x)
    for m, momentum in zip(norms, kept, strict=True):
        m.momentum = momentum


def _batches(
    handles: Sequence[Handle], runs: Sequence[Run], size: int, augment: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, M *) and class ids (B, M) of M models, each from its own set in its own order."""
    each = [h.batches(size, r.rng, augment=augment) for h, r in zip(handles, runs, strict=True)]
    for batches in zip(*each, strict=True):
        x = torch.cat([b.x for b in batches], 1)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        yield x, torch.stack([b.y for b in batches], 1)
