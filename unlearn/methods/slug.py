"""Single layer unlearning gradient (SLUG)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.erasure import ROWS
from unlearn.ops.freezing import only
from unlearn.ops.remembered import Remembered, remembered
from unlearn.ops.slug import Layer, mean_gradients, operate, pareto, weights
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Prompted, mode


@methods.register("slug")
class SLUG(Method[Prompted]):
    """Moves one layer of the text encoder along one gradient, as far as it takes to forget.

    With ε* the original, ∅ the empty prompt and c a prompt, a point (x_t, t, c) has the guidance d = ε*(c) − ε*(∅), and

        a = ⟨ε(c) − ε*(∅), d⟩ / ‖d‖²

    says how much of it is left: 1 in the original, 0 where the prompt says nothing, below 0 where it leads away. The
    forget loss is the mean of 1 − a over points of the concept, the retain loss the same over points of what must
    stay, and g_f and g_r are their gradients at the original, computed once. Of the weight matrices θ_l of the text
    encoder those are tried than which no other has both a larger importance ‖g_f‖ / ‖θ_l‖ and a smaller alignment
    |cos(g_f, g_r)|. On each,

        θ_l ← θ_l + λ g_f,

    with λ doubled from its first value until the mean a of the concept is at most `left`, and then bisected. Of all
    steps that forget, the one is kept that changes least what is predicted for what must stay; where none forgets,
    the one that leaves least. Latents x_t are denoised by the original with guidance for k steps, k uniform.

    References:
        Cai et al., 2024, Targeted unlearning with single layer unlearning gradient, arXiv:2407.11867

    Differences from the authors' released code:
        Theirs takes the gradients on CLIP, of one minus the cosine of image and text and of the contrastive loss, over
        pairs of images and names, and carries the edited text layer over to a diffusion model. A text-to-image model
        has no image tower: here a takes the place of the cosine, through the frozen denoiser, and no image is read.
        Theirs judges a step by what is drawn; here a is the judge of forgetting and the error ‖ε(c) − ε*(c)‖² / ‖d‖²
        that of the rest. Every layer of the front is searched, not the deepest alone, and a layer is one matrix.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept", "preserve"})
    presets: ClassVar = {
        "paper": Preset("authors' search on CLIP", {"first": 0.1, "tries": 10}),
        "canvas": Preset(
            "authors' search on UnlearnCanvas, Stable Diffusion 1.5", {"first": 0.4, "tries": 10}
        ),
    }
    own: ClassVar = "canvas"

    first: float = knob(0.1, "first step, in units of ‖θ‖ / ‖g_f‖", gt=0, search=(0.01, 1.0))
    tries: int = knob(10, "steps that are tried on each layer", ge=1)
    left: float = knob(-0.5, "share of the concept's guidance that may be left", le=1, search=(-2.0, 0.5))
    latents: int = knob(48, "noisy latents of the concept, and as many of what must stay", ge=1)
    guidance: float = knob(3.0, "scale of guidance towards the prompts while latents are sampled", ge=0)

    def unlearn(self, subject: Prompted, data: Split, run: Run) -> Prompted:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is no prompt of the concept, or none of what must stay.
        """
        text = subject.parts()["text"]
        with mode(subject.module, train=False):
            f, r = (
                remembered(subject, prompts, self.latents, self.guidance, run)
                for prompts in (data.concept, data.preserve)
            )
            with only(subject.module, list(text.modules())):
                found = weights(text, "norm")
                slopes = [mean_gradients(losses(subject, p), list(found.values())) for p in (f, r)]
            layers = [Layer(n, *parts) for n, *parts in zip(found, found.values(), *slopes, strict=True)]
            operate(pareto(layers), self.first, self.tries, self.left, lambda: judged(subject, f, r), run)
        return subject


def remains(subject: Prompted, points: Remembered) -> Tensor:
    """The a of each point, with shape (B,)."""
    d = (points.told - points.free).flatten(1)
    now = subject.predict(points.z, points.t, subject.encode(points.prompts())) - points.free
    return (now.flatten(1) * d).sum(1) / d.square().sum(1)


def losses(subject: Prompted, points: Remembered) -> Iterator[Tensor]:
    """1 − a, summed over some points at a time and divided by their mean number, so that the mean is over all."""
    parts = list(points.split(ROWS))
    return ((1 - remains(subject, p)).sum() * len(parts) / len(points) for p in parts)


@torch.no_grad()
def judged(subject: Prompted, forget: Remembered, retain: Remembered) -> tuple[float, float]:
    """Mean a of the concept, and the mean error of what must stay, ‖ε(c) − ε*(c)‖² / ‖d‖²."""
    left = torch.cat([remains(subject, p) for p in forget.split(ROWS)]).mean()
    harm = []
    for p in retain.split(ROWS):
        off = subject.predict(p.z, p.t, subject.encode(p.prompts())) - p.told
        harm.append(off.flatten(1).square().sum(1) / (p.told - p.free).flatten(1).square().sum(1))
    return float(left), float(torch.cat(harm).mean())
