"""Zero-retrain forgetting score (ZRF)."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.divergence import js, js_released
from unlearn.ops.stats import Rows, over_examples
from unlearn.registry import metrics
from unlearn.subject import FreshClassifier, mode


@metrics.register("zrf")
class Zrf(Metric):
    """Likeness of the answers on the forget set to those of an untrained model.

    With p the predictions and q those of a model with newly drawn weights,

        ZRF = 1 − mean JS(p, q)   over the forget set.

    Being like an untrained model is no aim in itself: a model that never saw the forget set is not either.

    References:
        Chundawat et al., 2023, Can bad teaching induce forgetting?, arXiv:2205.08096

    Differences from the authors' released code:
        The divergence is the Jensen-Shannon divergence of each example in nats, or in bits with
        `variant="bits"`. Theirs reverses it and divides it by the number of classes, which pushes the score
        towards 1: `variant="bad_teacher"`.
    """

    needs = FreshClassifier
    variant: Literal["nats", "bits", "bad_teacher"] = knob("nats", "form of the divergence")

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        untrained = _untrained_outputs(ev)

        def of(who: str, rows: Rows = ...) -> float:
            return zrf(ev.outputs(who, "forget")[rows], untrained[rows], self.variant)

        return [ev.level(
            "zrf", of, Aim.MATCH, metric=self.name, variant="" if self.variant == "nats" else self.variant,
            n=len(untrained), **over_examples(lambda rows: of("unlearned", rows), len(untrained), seed=ev.seed),
        )]  # fmt: skip


def zrf(outputs: Tensor, untrained: Tensor, variant: str = "nats") -> float:
    """One minus the mean divergence from an untrained model.

    Args:
        outputs: Logits of the model, with shape (N, C).
        untrained: Logits of the untrained one, with shape (N, C).
        variant: `nats`, `bits` or `bad_teacher`.
    """
    if variant == "bad_teacher":
        return float(1 - js_released(outputs, untrained))
    mean = float(js(outputs, untrained).mean())
    return 1 - (mean / math.log(2) if variant == "bits" else mean)


def _untrained_outputs(ev: Evidence) -> Tensor:
    subject = cast(FreshClassifier, ev.subjects["unlearned"])
    fresh = subject.fresh(torch.Generator().manual_seed(ev.seed))
    with torch.inference_mode(), mode(fresh.module, train=False):
        rows = [fresh.outputs(b).float().cpu() for b in ev.handles["forget"].batches(ev.batch_size)]
    return torch.cat(rows)
