"""Transposed kernels, then fine-tuning: a method of the NeurIPS 2023 competition."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from unlearn.data import Split
from unlearn.errors import Mismatch
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.retraining import convolutions, repair
from unlearn.ops.steps import sgd
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Classifies


@methods.register("convolution-transpose")
class ConvolutionTranspose(Method[Classifies]):
    """Transposes every kernel of a convolution and fine-tunes on retain (reconstructed).

    K_oi ← K_oiᵀ for each output channel o and input channel i of every two-dimensional convolution, and then

        θ ← θ − η_e ∇ mean ℓ(f(x_r), y_r),   η_e = η (1 + cos(π e / E)) / 2   in pass e = 0 … E − 1,

    with SGD and momentum. Features are damaged alike for all examples; only those of the retain set are repaired.

    RECONSTRUCTED from the implementation in a later benchmark; the competitors' own code was not at hand.

    References:
        Cadet et al., 2024, Deep unlearn: benchmarking machine unlearning for image classification,
        arXiv:2410.01276

    Differences from the authors' released code:
        Against the benchmark's: kernels that are not square are refused; theirs would change their shape.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"retain"})
    presets: ClassVar = {
        "benchmark": Preset(
            "Deep unlearn, the competitors' own setting", {"lr": 1e-3, "epochs": 3, "batch_size": 64}
        )
    }

    lr: float = knob(0.05, "largest step size η of SGD", gt=0, search=(1e-3, 0.3))
    epochs: int = knob(5, "passes E over the retain set", ge=1, search=(1, 10))
    batch_size: int = knob(64, "examples in a step", ge=1)
    momentum: float = knob(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)

    def unlearn(self, subject: Classifies, data: Split, run: Run) -> Classifies:
        """See `Method.unlearn`.

        Raises:
            Mismatch: If there is no convolution, or one whose kernels are not square.
        """
        transpose_kernels(subject.module)
        opt = sgd(subject.module.parameters(), self.lr, self.momentum, self.weight_decay)
        repair(subject, data, run, opt, (self.epochs, self.batch_size, lambda e: cosine(e, self.epochs)))
        return subject


def cosine(e: int, epochs: int) -> float:
    """Factor of the step size in pass e of E: from 1 down, and it would be 0 in pass E."""
    return 0.5 * (1 + math.cos(math.pi * e / epochs))


@torch.no_grad()
def transpose_kernels(module: nn.Module) -> None:
    """Exchanges height and width of every kernel, in place.

    Raises:
        Mismatch: If there is no convolution, or one whose kernels are not square.
    """
    for name, conv in convolutions(module, "convolution-transpose").items():
        if conv.kernel_size[0] != conv.kernel_size[1]:
            raise Mismatch(
                f"convolution-transpose needs square kernels, those of {name} are {conv.kernel_size[0]} x {conv.kernel_size[1]}; use masked-small-gradients"
            )
        conv.weight.copy_(conv.weight.transpose(2, 3).clone())
