"""Safe latent diffusion (SLD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.names import concepts_of
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Steers

SOURCE = "authors' configuration {}, Stable Diffusion 1.4, 50 steps, guidance 7.5"


@methods.register("sld")
class SLD(Method[Steers]):
    """Leaves the weights alone and steers every sample away from the concept while it is drawn.

    With ∅ the empty prompt, c the prompt, p that of the concept, g the scale of guidance and ν₀ = 0, step i follows

        φ = min(1, s |ε(c) − ε(p)|), and 0 where ε(c) − ε(p) ≥ λ,
        γ = φ ⊙ (ε(p) − ε(∅)) + m νᵢ,
        νᵢ₊₁ = β νᵢ + (1 − β) γ,
        ε(∅) + g (ε(c) − ε(∅) − γ) from step δ on, and ε(∅) + g (ε(c) − ε(∅)) before.

    The concept is the first prompt of its set, and each of several that are erased at once has a γ of its own, which
    add up. A step costs three rows of the denoiser instead of two, and one more for each further concept. This is a
    defence of the sampler: the model still knows the concept, and whoever holds the weights can leave it out.

    References:
        Schramowski et al., 2023, Safe latent diffusion: mitigating inappropriate degeneration in diffusion models,
        arXiv:2211.05105

    Differences from the authors' released code:
        Samples come from the subject's sampler and its number of steps; δ counts those. Several guides, of one
        concept after another, add up.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept"})
    deterministic: ClassVar[bool] = True
    presets: ClassVar = {
        "weak": Preset(
            SOURCE.format("weak"),
            {"warmup": 15, "scale": 20.0, "threshold": 0.0, "momentum": 0.0, "beta": 0.0},
        ),
        "medium": Preset(
            SOURCE.format("medium"),
            {"warmup": 10, "scale": 1000.0, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
        ),
        "strong": Preset(
            SOURCE.format("strong"),
            {"warmup": 7, "scale": 2000.0, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
        ),
        "max": Preset(
            SOURCE.format("max"),
            {"warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum": 0.5, "beta": 0.7},
        ),
    }

    warmup: int = knob(0, "steps δ of a trajectory before it is steered", ge=0)
    scale: float = knob(5000.0, "scale s of what is taken away", ge=0, search=(20.0, 5000.0))
    threshold: float = knob(
        1.0, "threshold λ, above which a latent is left alone", search=(0.0, 1.0), ge=-10.0
    )
    momentum: float = knob(0.5, "weight m of what was taken away before", ge=0, le=1, search=(0.0, 0.9))
    beta: float = knob(0.7, "share β of the memory that each step keeps", ge=0, lt=1, search=(0.0, 0.9))

    def unlearn(self, subject: Steers, data: Split, run: Run) -> Steers:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is no prompt.
        """
        return self._steered(subject, [ids[0] for ids in concepts_of(data.concept)])

    def restore(self, subject: Steers, state: Mapping[str, Tensor]) -> Steers:
        """See `Method.restore`; all that was added is a prompt for each concept."""
        return self._steered(subject, [state[name] for name in sorted(state, key=_place)])

    def _steered(self, subject: Steers, prompts: Sequence[Tensor]) -> Steers:
        for prompt in prompts:
            subject = subject.steered(SafetyGuide(prompt, self))
        return subject


class SafetyGuide(nn.Module):
    """What one concept takes away from guidance, see `SLD`; a guide as `unlearn.subject.Steers` wants it.

    Args:
        prompt: Token ids of the concept's prompt.
        sld: The hyper-parameters.
    """

    prompt: Tensor

    def __init__(self, prompt: Tensor, sld: SLD) -> None:
        super().__init__()
        self.register_buffer("prompt", prompt.clone())
        self.sld = sld

    def forward(
        self, step: int, free: Tensor, told: Tensor, named: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """γ of this step, zero before step δ, and ν of the next."""
        h = self.sld
        apart = told - named
        phi = torch.where(apart >= h.threshold, 0.0, (h.scale * apart.abs()).clamp_max(1.0))
        away = phi * (named - free) + h.momentum * memory
        memory = h.beta * memory + (1 - h.beta) * away
        return (away if step >= h.warmup else torch.zeros_like(away)), memory


def _place(name: str) -> int:
    """Number of the guide whose tensor has this name, `guides.2.prompt`."""
    return int(name.split(".")[1])
