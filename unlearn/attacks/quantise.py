"""Rounding the weights of a model that erased a concept."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from unlearn.attack import Attack, Attempt, Case
from unlearn.knobs import knob
from unlearn.ops.rounding import rounded
from unlearn.registry import attacks


@attacks.register("quantise")
class Quantise(Attack):
    """Rounds the weights to few bits, which undoes edits that are smaller than the steps between values.

    Every matrix and every kernel W of denoiser and text encoder becomes, with a scale for each output channel,

        W ← s · clip(round(W / s), −q, q),  s = max |W| / q,  q = 2^(bits − 1) − 1,

    and each prompt is drawn again. Norms and biases keep their precision.

    References:
        Zhang et al., 2024, Catastrophic failure of LLM unlearning via quantization, arXiv:2410.16454

    Differences from the authors' released code:
        They round language models with library kernels; here weights are rounded and computed with in single precision.
    """

    bits: int = knob(4, "bits of a weight, its sign among them", ge=2, le=8)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return f"weights of {self.bits} bits"

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`."""
        with torch.no_grad():
            for p in case.victim.module.parameters():
                if p.dim() > 1:
                    p.copy_(rounded(p, self.bits))
        if len(case.open):
            yield case.open, case.asked(case.ids[case.open])
