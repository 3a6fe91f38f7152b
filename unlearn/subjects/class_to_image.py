"""Class-conditional diffusion models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Batch, Handle
from unlearn.ops import latents
from unlearn.ops.hooks import made_by
from unlearn.ops.recipe import Recipe
from unlearn.ops.verbs import fit, like, untrained, whole
from unlearn.registry import subjects
from unlearn.runtime import Run
from unlearn.subject import mode

UP = ("up_blocks", "conv_norm_out", "conv_act", "conv_out")
"""Of a UNet, what follows the middle block."""
ENDS = ("time_embedding", "conv_norm_out", "conv_out")
"""Of a UNet, the embedding of time and the output."""


@subjects.register("class-to-image")
@dataclass(slots=True)
class ClassToImage:
    """Draws images of a class by diffusion; x are images between -1 and 1 and y class ids.

    It predicts the noise ε(x_t, t, c) in x_t = √ᾱ_t x + √(1 − ᾱ_t) ε. The label after the last class is the empty one,
    ∅, which takes the place of a share of the labels while the module is in training mode.

    Attributes:
        module: A diffusers UNet2DModel with classes + 1 class embeddings.
        scheduler: A diffusers scheduler that predicts noise; its noise schedule is what counts.
        classes: Number of classes C.
        shape: Shape (C, H, W) of one image.
        steps: Steps of a whole trajectory.
        guidance: Scale g of ε(∅) + g (ε(c) − ε(∅)) in samples.
        drop: Share of labels that are replaced by the empty one in training.
        recipe: How it was trained; None means that it is unknown and there is no oracle.
        build: Returns the untrained module; by default every layer is reset.

    References:
        Ho et al., 2020, Denoising diffusion probabilistic models, arXiv:2006.11239
        Ho and Salimans, 2022, Classifier-free diffusion guidance, arXiv:2207.12598
        Fan et al., 2024, SalUn: empowering machine unlearning via gradient-based weight saliency in both
        image classification and generation, arXiv:2310.12508 (the relabelled loss)

    Differences from the authors' released code:
        That of SalUn sums squared errors over an image where this takes their mean, a factor C H W in a step size or
        in the weight of the retain loss. It draws times in pairs t and T − 1 − t; here they are independent.
    """

    module: nn.Module
    scheduler: Any
    classes: int
    shape: tuple[int, int, int]
    steps: int = 25
    guidance: float = 2.0
    drop: float = 0.1
    recipe: Recipe | None = None
    build: Callable[[], nn.Module] | None = None

    def clone(self) -> Self:
        """A copy with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def encode(self, batch: Batch) -> Tensor:
        """Class ids, with shape (B,)."""
        return batch.y

    def null(self, n: int) -> Tensor:
        """The empty label n times, with shape (n,)."""
        return torch.full((n,), self.classes, device=like(self.module).device)

    def predict(self, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """The noise that the network sees in z (B, C, H, W) of times t (B,)."""
        out: Tensor = self.module(z, t, class_labels=cond).sample
        return out

    def encoder(self) -> list[nn.Module]:
        """All modules but those on the way up and behind it, the embeddings of time and class among them."""
        parts = dict(self.module.named_children())
        behind = {m for name in UP if name in parts for m in parts[name].modules()}
        return [m for m in self.module.modules() if m not in behind]

    def depths(self, z: Tensor, t: Tensor, cond: Any) -> list[Tensor]:
        """What each block on the way down, and the middle one last, makes of z (B, C, H, W) at times t (B,)."""
        parts = dict(self.module.named_children())
        blocks = [*parts["down_blocks"].children(), parts["mid_block"]]
        return made_by(blocks, lambda: self.predict(z, t, cond))

    def times(self, n: int, rng: Generator) -> Tensor:
        """Times drawn as in training, with shape (n,)."""
        total: int = self.scheduler.config.num_train_timesteps
        return whole(total, n, rng, like(self.module).device)

    def between(self, until: Tensor, rng: Generator) -> Tensor:
        """Times (B,) drawn between those that are reached after `until` (B,) steps and after one less, see `Jitters`."""
        return latents.between(self.scheduler.config.num_train_timesteps, self.steps, until, rng)

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images x (B, C, H, W) with noise of times t (B,), and what should be predicted there: the noise."""
        return self.scheduler.add_noise(x, noise, t), noise

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Squared error of each example's prediction at a drawn time, meaned over its elements, (B,).

        Without a generator, time and noise of an example are seeded by its id, and no label is replaced.
        """
        z, t, noise = latents.noised(self, batch, rng)
        return latents.squared(self.predict(z, t, self._told(batch.y, rng)), noise)

    def relabeled_loss(self, batch: Batch, rng: Generator) -> Tensor:
        """Error against the model's own stopped-gradient prediction for the next class, with shape (B,).

        The next class of the last is the first. Labels of both predictions are replaced independently.
        """
        z, t, _ = latents.noised(self, batch, rng)
        with torch.no_grad():
            target = self.predict(z, t, self._told((batch.y + 1) % self.classes, rng))
        return latents.squared(self.predict(z, t, self._told(batch.y, rng)), target)

    @torch.no_grad()
    def trajectory(self, cond: Any, until: int, guidance: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """Images denoised by DDIM from pure noise for `until` of `steps` steps, and the time (B,) reached.

        Args:
            cond: Class ids, with shape (B,).
            until: Steps to take, 0 for pure noise, `steps` for finished images at time 0.
            guidance: Scale g of ε(∅) + g (ε(c) − ε(∅)).
            rng: Source of the noise.
        """
        n, ddim = len(cond), self._ddim()
        z = torch.randn(n, *self.shape, generator=rng, device=rng.device).to(like(self.module))
        both = torch.cat([self.null(n), cond])
        with mode(self.module, train=False):
            for t in ddim.timesteps[:until]:
                free, told = self.predict(torch.cat([z, z]), t.expand(2 * n), both).chunk(2)
                z = ddim.step(free + guidance * (told - free), t, z).prev_sample
        reached = ddim.timesteps[until] if until < self.steps else torch.zeros_like(ddim.timesteps[0])
        return z, reached.expand(n)

    def sample(self, batch: Batch, rng: Generator) -> Tensor:
        """A new image of each row's class, with shape (B, C, H, W), between -1 and 1 but for overshoot."""
        return self.trajectory(self.encode(batch), self.steps, self.guidance, rng)[0]

    def draw(self, batch: Batch, rng: Generator) -> Tensor:
        """An image of each row's class, with shape (B, 3, H, W), between 0 and 1."""
        return ((self.sample(batch, rng).expand(-1, 3, -1, -1) + 1) / 2).clamp(0, 1)

    def parts(self) -> dict[str, nn.Module]:
        """Parts of the network by name.

        A class enters by its embedding and, in each block, by a linear map that reads it. Together they take the place
        of `cross-attention`, of which there is none, and the maps that of its keys and values. `ends` are the output and
        the embedding of time.
        """
        blocks = list(self.module.named_modules())
        maps = [m for n, m in blocks if n.endswith(".time_emb_proj")]
        attention = [m for n, m in blocks if n.split(".")[-2:-1] == ["attentions"]]
        found = {
            "cross-attention": nn.ModuleList([self.module.get_submodule("class_embedding"), *maps]),
            "cross-attention-kv": nn.ModuleList(maps),
            "self-attention": nn.ModuleList(attention),
            "ends": nn.ModuleList(m for n, m in blocks if n in ENDS),
            "all": self.module,
        }
        return {name: part for name, part in found.items() if list(part.parameters())}

    def fresh(self, rng: Generator) -> Self:
        """The same architecture with newly drawn weights."""
        return replace(self, module=untrained(self.module, self.build, rng))

    def fit(self, handle: Handle, run: Run) -> None:
        """Trains in place by the recipe, see `unlearn.ops.verbs.fit`."""
        fit(self, self.recipe, handle, run)

    def _told(self, labels: Tensor, rng: Generator | None) -> Tensor:
        """Labels (B,), in training mode a share of them replaced by the empty one."""
        if rng is None or not self.module.training:
            return labels
        lost = torch.rand(len(labels), generator=rng, device=rng.device) < self.drop
        return labels.masked_fill(lost.to(labels.device), self.classes)

    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        ddim = DDIMScheduler.from_config(self.scheduler.config)
        ddim.set_timesteps(self.steps, device=like(self.module).device)
        return ddim
