"""Forget-me-not: attention resteering."""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unlearn.data import Split
from unlearn.errors import BadData
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.erasure import TRAINED, Trained, chosen
from unlearn.ops.freezing import only
from unlearn.ops.names import concepts_of, names
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import AttendsToExamples, mode


@methods.register("forget-me-not")
class ForgetMeNot(Method[AttendsToExamples]):
    """Trains cross-attention to look away from the concept's tokens, on images of the concept.

    With A_l the attention probabilities of cross-attention layer l for a noisy image x_t of the concept and its
    prompt, and C the columns of the concept's tokens in that prompt,

        L = Σ_l ‖A_l[:, C]‖,

    over all heads and places of the image, minimised with AdamW over the weights of the denoiser. With `norm="joint"` it
    is one norm over all layers. Tokens that all prompts of the concept share are its tokens, where they share any. With
    `ends` the end-of-text tokens count as well, which sum up a prompt; where prompts are padded with them, as in Stable
    Diffusion 1, that is all padding. Nothing holds other concepts but the small number of steps.

    References:
        Zhang et al., 2023, Forget-me-not: learning to forget in text-to-image diffusion models, arXiv:2303.17591

    Differences from the authors' released code:
        Their norm is the joint one. They first learn a token for the concept by textual inversion, which is not
        offered, and mark that. Gradients are not clipped here, examples of a batch may have different numbers of the
        concept's tokens, and L is the mean over them.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget", "concept"})
    presets: ClassVar = {
        "paper": Preset(
            "authors' configuration, Stable Diffusion 2.1 base",
            {"train": "full", "iterations": 35, "lr": 2e-6, "batch_size": 1, "norm": "joint", "ends": True},
        ),
    }
    own: ClassVar = "paper"

    expected_failures: ClassVar = {
        "concept": "Steps that forget a digit of the embedded pipeline harm other digits and inks as much; the default spares these and forgets next to nothing."
    }

    train: Trained = knob("x", TRAINED)
    iterations: int = knob(35, "steps of AdamW", ge=1, search=(10, 200))
    lr: float = knob(3e-4, "step size of AdamW", gt=0, search=(1e-6, 1e-3))
    batch_size: int = knob(8, "images in an iteration", ge=1)
    norm: Literal["layers", "joint"] = knob("layers", "sum of the norms of all layers, or one norm over them")
    ends: bool = knob(False, "take end-of-text tokens for the concept's too")
    blank: bool = knob(False, "noise in place of noisy images")

    def unlearn(self, subject: AttendsToExamples, data: Split, run: Run) -> AttendsToExamples:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is no image, or no prompt of an image has a token of the concept.
            Mismatch: If nothing of what is to train is in the model.
        """
        marked = torch.cat(names(concepts_of(data.concept), subject.empty))
        if not any(bool(torch.isin(b.y, marked).any()) for b in data.forget.batches(64)):
            raise BadData(
                "no prompt of an image has a token that names the concept; give images whose prompts name it"
            )
        if self.ends:
            marked = torch.cat([marked, subject.empty[1:2].to(marked)])
        losses = []
        with only(subject.module, chosen(subject, self.train)) as params, mode(subject.module, train=False):
            opt = torch.optim.AdamW(params, self.lr)
            epochs = (data.forget.batches(self.batch_size, run.rng) for _ in itertools.count())
            batches = itertools.islice(itertools.chain.from_iterable(epochs), self.iterations)
            for f in run.track(batches, "unlearn", self.iterations):
                x = torch.zeros_like(f.x) if self.blank else f.x
                t = subject.times(len(x), run.rng)
                z, _ = subject.noised(x, t, normal(x, run.rng))
                seen = subject.attention(z, t, subject.encode(f))
                columns = torch.isin(f.y, marked)[
                    :, : seen[0].shape[-1]
                ]  # ids for a second encoder come after
                loss = resteering(seen, columns, self.norm)
                descend(opt, loss)
                losses.append(loss.detach())
        for value in torch.stack(losses).tolist():
            run.note(loss=value)
        return subject


def resteering(attention: list[Tensor], columns: Tensor, norm: Literal["layers", "joint"]) -> Tensor:
    """L, the mean over examples.

    Args:
        attention: Probabilities (B, heads, queries, L) of each layer.
        columns: Which tokens of each prompt are the concept's, with shape (B, L).
        norm: Whether the norms of layers are summed, or taken together.
    """
    kept = [(a * columns[:, None, None]).flatten(1) for a in attention]
    if norm == "joint":
        kept = [torch.cat(kept, 1)]
    return torch.stack([torch.linalg.vector_norm(a, dim=1) for a in kept]).sum(0).mean()
