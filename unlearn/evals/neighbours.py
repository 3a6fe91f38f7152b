"""How the concepts nearest to the erased one are drawn."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlearn.gallery import seen
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics
from unlearn.subject import CrossAttends, mode


@metrics.register("neighbours")
class Neighbours(Metric):
    """Share drawn right of the concepts that the text encoder holds nearest to the erased one.

    With w_c the mean over its prompts of the original's text state at a prompt's last token, and w̄ the mean over
    the concepts of the erased one's axis, nearness is the cosine of w_c − w̄ and that of the erased concept. All
    prompts share most of their state: without the difference every cosine is near 1. `near` is the share drawn
    right of the `k` nearest concepts, `far` that of the others of the axis.

    References:
        The HUB benchmark (pinpoint-ness)
        Gandikota et al., 2023, Erasing concepts from diffusion models, arXiv:2303.07345 (interference)
    """

    needs: ClassVar[type] = CrossAttends
    basic: ClassVar[bool] = False
    k: int = knob(3, "nearest concepts", ge=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """Near and far; those without prompts are left out."""
        gallery = ev.drawn
        asked, names = gallery.asked[gallery.axis], gallery.names[gallery.axis]
        order, near = nearest(_states(ev), asked, gallery.target)
        told = ", ".join(f"{names[c]} {v:.2f}" for c, v in zip(order[: self.k], near, strict=False))
        said = {"near": f"nearest to {gallery.concept}, by cosine: {told}", "far": ""}
        made = []
        for name, concepts in (("near", order[: self.k]), ("far", order[self.k :])):
            rows = torch.isin(asked, torch.tensor(concepts, dtype=asked.dtype))
            if rows.any():
                made.append(self._share(ev, name, rows, said[name]))
        return made

    def _share(self, ev: Evidence, name: str, rows: Tensor, note: str) -> Score:
        axis = ev.drawn.axis

        def right(who: str) -> Tensor:
            return (seen(ev.judged(who, axis)) == ev.drawn.asked[axis])[rows]

        return ev.level(
            f"{self.name}/{name}", lambda who: right(who).double().mean(), Aim.UP, metric=self.name, headline=name == "near",
            n=int(rows.sum()), note=note, **ends_of_share(right("unlearned")),
        )  # fmt: skip


def nearest(states: Tensor, asked: Tensor, target: int) -> tuple[list[int], list[float]]:
    """Ids of the other concepts that are asked for, the nearest first, and their cosines with the target.

    Args:
        states: Of each prompt, with shape (N, D).
        asked: Concept id of each prompt, with shape (N,).
        target: Id of the concept; without a prompt for it nothing is near.

    Example:
        >>> states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
        >>> nearest(states, torch.tensor([4, 4, 7, 2]), 4)[0]
        [7, 2]
    """
    concepts = asked.unique()
    means = torch.stack([states[asked == c].double().mean(0) for c in concepts])
    unit = normalize(means - means.mean(0))
    here = (concepts == target).nonzero().flatten().tolist()
    if not here:
        return [], []
    cosines = unit @ unit[here[0]]
    order = [i for i in cosines.argsort(descending=True, stable=True).tolist() if i != here[0]]
    return concepts[order].tolist(), cosines[order].tolist()


def _states(ev: Evidence) -> Tensor:
    """The original's text state at the last token of each prompt's subject, with shape (N, D)."""
    subject = cast(CrossAttends, ev.subjects["original"])
    rows = []
    with torch.inference_mode(), mode(subject.module, train=False):
        for batch in ev.handles["prompts"].batches(ev.batch_size):
            states, at = subject.words(batch)
            rows.append(states[torch.arange(len(at), device=at.device), at].float().cpu())
    return torch.cat(rows)
