"""Unlearning for image-to-image models in its form for diffusion: the encoder takes what is forgotten for noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.data import Batch, Split
from unlearn.filling import EncodesNoisy
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.encoding import apart, stepped
from unlearn.ops.freezing import only
from unlearn.ops.together import matched
from unlearn.ops.verbs import like, normal
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import mode


@methods.register("i2i-diffusion")
class I2IDiffusion(Method[EncodesNoisy]):
    """Teaches the encoder of a denoiser to take noisy forgotten images for pure noise.

    With E_l what block l on the way down, or the middle one, makes of an image, E_l⁰ the original's, x_t an example with
    noise ε of a drawn time t, and D_l the numbers in block l,

        L = Σ_l mean ‖E_l(x_t) − E_l⁰(x_t)‖² / D_l over retained + α Σ_l mean ‖E_l(x_t) − E_l⁰(ε)‖² / D_l over forgotten ones,

    minimised over what lies before the way up, by Adam; the rest keeps its bits. An epoch is a pass over the retain set,
    and every batch has as many forgotten examples beside it, which are read again and again. With `ema` the result is a
    moving average of the weights.

    References:
        Li et al., 2024, Machine unlearning for image-to-image generative models, arXiv:2402.00351

    Differences from the authors' released code:
        Theirs fills in a mask (Palette), inside which alone the teacher sees pure noise; here the whole image is inside,
        since these models are given no part of it. A step reads as many of each set, and each term is a mean over its own
        examples; theirs are means over both sets together, half as large, of which Adam takes no notice. The label of an
        example goes to teacher and student alike.
    """

    presets: ClassVar = {
        "paper": Preset(
            "authors' code, Palette on ImageNet-1k and Places-365, 12 examples a GPU",
            {"lr": 5e-5, "epochs": 2, "batch_size": 6, "alpha": 0.1, "ema": 0.9999},
        )
    }

    expected_failures: ClassVar = {
        "concept": "A small class-conditional model still draws the digit from its label in most drawings.",
    }

    alpha: float = knob(0.25, "weight α of the forget set", ge=0, search=(0.05, 2.0))
    lr: float = knob(2e-4, "step size of Adam", gt=0, search=(1e-5, 2e-3))
    epochs: int = knob(5, "passes over the retain set", ge=1, search=(1, 10))
    batch_size: int = knob(64, "examples of either set in a step", ge=1)
    ema: float = knob(0.0, "share of the average that a step keeps; 0 for none", ge=0, lt=1)

    def unlearn(self, subject: EncodesNoisy, data: Split, run: Run) -> EncodesNoisy:
        """See `Method.unlearn`."""
        teacher = subject.clone()
        with only(subject.module, subject.encoder()) as free, mode(teacher.module, train=False):
            opt = torch.optim.Adam(free, self.lr)
            weights: list[Tensor] = [p.detach() for p in free]
            mean = [w.clone() for w in weights]
            with mode(subject.module, train=True):
                for _ in run.track(range(self.epochs), "unlearn"):
                    for r, f in matched(data.retain, data.forget, self.batch_size, run.rng):
                        kept = distance(subject, teacher, r, run, noise=False)
                        gone = distance(subject, teacher, f, run, noise=True)
                        stepped(opt, kept.mean() + self.alpha * gone.mean(), 0.0)
                        torch._foreach_lerp_(mean, weights, 1 - self.ema)
            torch._foreach_copy_(weights, mean)
        return subject


def distance(subject: EncodesNoisy, teacher: EncodesNoisy, batch: Batch, run: Run, noise: bool) -> Tensor:
    """How far each block's representation of a noisy example is from the teacher's, summed over blocks, with shape (B,).

    Args:
        subject: The student, which sees the example with noise of a drawn time.
        teacher: The original.
        batch: The examples.
        run: Source of time and noise.
        noise: Whether the teacher sees the noise alone.
    """
    x = batch.x.to(like(subject.module))
    t, eps = subject.times(len(x), run.rng), normal(x, run.rng)
    z, _ = subject.noised(x, t, eps)
    cond = subject.encode(batch)
    with torch.no_grad():
        targets = teacher.depths(eps if noise else z, t, cond)
    found = subject.depths(z, t, cond)
    return torch.stack([apart(a, b) for a, b in zip(found, targets, strict=True)]).sum(0)
