"""Textual inversion of an erased concept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from unlearn.attack import Attack, Attempt, Case
from unlearn.knobs import knob
from unlearn.ops.prompts import word_of
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal, whole
from unlearn.registry import attacks


@attacks.register("inversion")
class Inversion(Attack):
    """Learns, on the erased model, a new word for the concept from a few images that show it.

    The weights stay as they are. One embedding v takes the place of the word that names the concept, in the prompts
    of the images and later in the prompts that are drawn, and Adam minimises over v

        L = mean (f(z_t, t, c(v)) − target)²

    with t and noise drawn as in training. It starts from the concept's own word. f is the prediction for the prompt, or
    with `prediction="guided"` what the sampler follows, so that v also learns to get past a defence at inference time.

    References:
        Pham et al., 2023, Circumventing concept erasure methods for text-to-image generative models, arXiv:2308.01508
        Gal et al., 2022, An image is worth one word, arXiv:2208.01618

    Differences from the authors' released code:
        One image is one example whatever the number of accumulated batches, and everything is single precision;
        theirs takes 5,000 steps of 5e-3 times the batch. A guided prediction of one time knows no momentum of the steps
        before.
    """

    images: int = knob(25, "images of the concept that the attacker has", ge=1)
    iterations: int = knob(300, "steps of Adam", ge=1, search=(100, 5000))
    lr: float = knob(0.3, "step size", gt=0, search=(1e-2, 1.0))
    batch_size: int = knob(16, "noisy images in a step", ge=1)
    prediction: Literal["prompt", "guided"] = knob(
        "prompt", "what is trained: the prediction for the prompt, or what the sampler follows"
    )
    tries: int = knob(3, "times that all prompts are drawn, after equal shares of the steps", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        how = " of guided predictions" if self.prediction == "guided" else ""
        return f"one word learnt from {self.images} images in {self.iterations} steps{how}, drawn {self.tries} times"

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`."""
        x, y = case.images(self.images)
        start = word_of(y, case.others)
        word = case.victim.embeddings()[y[0, start[0]]].detach().clone().requires_grad_()
        opt = torch.optim.Adam([word], self.lr)
        after = {self.iterations * (k + 1) // self.tries for k in range(self.tries)}
        for step in case.run.track(range(1, self.iterations + 1), "attack"):
            rows = whole(len(x), self.batch_size, case.run.rng, x.device)
            t = case.victim.times(len(rows), case.run.rng)
            z, goal = case.victim.noised(x[rows], t, normal(x[rows], case.run.rng))
            with torch.enable_grad():
                cond = case.victim.encode_embedded(spoken(case, y[rows], start[rows], word), y[rows])
                seen = case.victim.guided if self.prediction == "guided" else case.victim.predict
                descend(opt, mse_loss(seen(z, t, cond), goal))
            if step in after and len(case.open):
                ids = case.ids[case.open]
                with torch.no_grad():
                    said = spoken(case, ids, word_of(ids, case.others), word)
                    yield case.open, case.victim.encode_embedded(said, ids)


def spoken(case: Case, ids: Tensor, at: Tensor, word: Tensor) -> Tensor:
    """Embedded prompts (N, L, D) in which one embedding (D,) stands at one position (N,) of each."""
    embedded = case.victim.embeddings().detach()[ids]
    here = torch.arange(ids.shape[1], device=ids.device) == at[:, None]
    return torch.where(here[..., None], word, embedded)
