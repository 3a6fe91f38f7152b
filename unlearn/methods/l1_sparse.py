"""Fine-tuning with a penalty that makes weights sparse."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.steps import descend, sgd
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import HasLoss, mode


@methods.register("l1-sparse")
class L1Sparse(Method[HasLoss]):
    """Fine-tunes on the retain set while pulling all weights towards zero, less and less.

    In epoch e of E,

        θ ← θ − η ∇ [mean ℓ(f(x_r), y_r) + γ_e ‖θ‖₁],   γ_e = γ (1 − e/E).

    References:
        Jia et al., 2023, Model sparsity can simplify machine unlearning, arXiv:2304.04934

    Differences from the authors' released code:
        None in the update. Their command line wants γ from the caller; the default is ours.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"retain"})
    presets: ClassVar = {
        "paper": Preset(
            "Unlearn-Sparse, CIFAR-10, ResNet-18; γ is not among the published values and stays ours",
            {"epochs": 10, "lr": 0.01, "batch_size": 256},
        )
    }
    expected_failures: ClassVar = {
        "concept": "The penalty, at a strength that classifiers bear, destroys a denoiser: hardly anything is drawn right.",
    }

    gamma: float = knob(1e-3, "weight γ of the penalty at the start", ge=0, search=(1e-5, 1e-2))
    lr: float = knob(0.1, "step size η", gt=0, search=(1e-3, 0.3))
    epochs: int = knob(10, "passes E over the retain set", ge=1, search=(1, 20))
    batch_size: int = knob(64, "examples in a step", ge=1)
    momentum: float = knob(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)
    augment: bool = knob(False, "crop and flip while training")

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        """See `Method.unlearn`."""
        params = [p for p in subject.module.parameters() if p.requires_grad]
        opt = sgd(params, self.lr, self.momentum, self.weight_decay)
        with mode(subject.module, train=True):
            for e in run.track(range(self.epochs), "unlearn"):
                gamma = self.gamma * (1 - e / self.epochs)
                for r in data.retain.batches(self.batch_size, run.rng, augment=self.augment):
                    descend(opt, subject.loss(r, run.rng).mean() + gamma * l1_norm(params))
        return subject


def l1_norm(params: list[torch.nn.Parameter]) -> Tensor:
    """‖θ‖₁ over all tensors together, a scalar with a gradient.

    Example:
        >>> l1_norm([torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([3.0]))]).item()
        6.0
    """
    return torch.stack([p.abs().sum() for p in params]).sum()
