"""Teaching an erased concept again with few weights and few images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import mse_loss

from unlearn.attack import Attack, Attempt, Case
from unlearn.knobs import knob
from unlearn.ops.erasure import chosen, taken
from unlearn.ops.low_rank import applied, beside
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal, whole
from unlearn.registry import attacks


@attacks.register("lora-relearn")
class LoraRelearn(Attack):
    """Trains a low-rank adapter of the cross-attention on a few images that show the concept.

    The weights W of every linear layer there become W + B A, with B zero at first, and Adam minimises over A and B

        L = mean (f(z_t, t, c) − target)²

    on the images and their own prompts, with t and noise drawn as in training. What a model without any memory of the
    concept learns from as many images in as many steps is what the oracle shows.

    References:
        Hu et al., 2021, LoRA: low-rank adaptation of large language models, arXiv:2106.09685
    """

    images: int = knob(25, "images of the concept that the attacker has", ge=1)
    iterations: int = knob(100, "steps of Adam", ge=1, search=(20, 1000))
    rank: int = knob(4, "rank of the adapter", ge=1)
    lr: float = knob(1e-3, "step size", gt=0, search=(1e-4, 1e-2))
    batch_size: int = knob(16, "noisy images in a step", ge=1)
    tries: int = knob(1, "times that all prompts are drawn, after equal shares of the steps", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return (
            f"an adapter of rank {self.rank} from {self.images} images in {self.iterations} steps, "
            f"drawn {self.tries} times"
        )

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`.

        Raises:
            Mismatch: If the model has no cross-attention.
        """
        x, y = case.images(self.images)
        cond = case.asked(y)
        layers = [m for m in chosen(case.victim, "x") if isinstance(m, nn.Linear)]
        maps = beside(case.victim.module, layers, self.rank, case.run.rng)
        opt = torch.optim.Adam(maps.parameters(), self.lr)
        after = {self.iterations * (k + 1) // self.tries for k in range(self.tries)}
        with applied(case.victim.module, maps, 1.0):
            for step in case.run.track(range(1, self.iterations + 1), "attack"):
                rows = whole(len(x), self.batch_size, case.run.rng, x.device)
                t = case.victim.times(len(rows), case.run.rng)
                z, goal = case.victim.noised(x[rows], t, normal(x[rows], case.run.rng))
                with torch.enable_grad():
                    descend(opt, mse_loss(case.victim.predict(z, t, taken(cond, rows)), goal))
                if step in after and len(case.open):
                    yield case.open, case.asked(case.ids[case.open])
