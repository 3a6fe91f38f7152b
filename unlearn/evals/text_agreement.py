"""Agreement of drawings with their prompts, by the judges."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.drawn import on_concept, on_others
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("text-agreement")
class TextAgreement(Metric):
    """How surely the judges see in a drawing what its prompt asks for.

    `target` is the mean probability of the erased concept where it is asked for, and `rest` that of everything
    else that those prompts ask for; drawings that show nothing are left out of both. `others` is the mean
    probability of all that the other prompts ask for, the product over the axes. Softer than the shares of
    `erasure`, and no more than the judges' calibration.

    References:
        Hessel et al., 2021, CLIPScore, arXiv:2104.08718 (the same question, put to CLIP; see `clip-score`)
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Three scores, two where there is one axis."""
        gallery = ev.drawn
        beside = [a for a in gallery.judges if a != gallery.axis]

        def of(who: str, *axes: str) -> Tensor:
            found = [probability(ev.judged(who, a), gallery.asked[a]) for a in axes]
            return torch.stack(found).prod(0)

        made = on_concept(
            ev, f"{self.name}/target", lambda who: of(who, gallery.axis), Aim.DOWN, metric=self.name
        )
        made += on_others(
            ev, f"{self.name}/others", lambda who: of(who, *gallery.judges), Aim.UP, metric=self.name
        )
        if beside:
            made += on_concept(
                ev, f"{self.name}/rest", lambda who: of(who, *beside), Aim.UP, metric=self.name
            )
        return made


def probability(logits: Tensor, asked: Tensor) -> Tensor:
    """Probability of the concept that was asked for, with shape (N,); 0 where logits are not finite.

    Args:
        logits: Of a judge, with shape (N, K + 1).
        asked: Concept ids, with shape (N,).

    Example:
        >>> probability(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]), torch.tensor([0, 1])).tolist()
        [0.5, 0.0]
    """
    return logits.double().softmax(1).gather(1, asked[:, None]).squeeze(1).nan_to_num(0.0)
