"""Forgetting quality of the NeurIPS 2023 unlearning challenge: how well sets of models can be told apart."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.ensembles import CAP, epsilon, forgetting_quality
from unlearn.ops.stats import ends_of_mean, over_examples
from unlearn.registry import metrics


@metrics.register("epsilon")
class Epsilon(Metric):
    """How well attacks tell unlearned models from retrained ones by each forgotten example's margin.

    `models` originals of other seeds unlearn the same forget set, and as many oracles are trained. Over all thresholds,
    ε = max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)) for each example, and F is the mean of H(ε) = 2^−⌊ε / 0.5⌋; see
    `unlearn.ops.ensembles`. F of two sets of oracles is far below 1 (about 0.22 with one threshold, 0.05 to 0.1 with
    two), so `epsilon/quality` is F as a multiple of that floor, and F itself comes with it.

    References:
        Triantafillou et al., 2024, Are we making progress in unlearning? Findings from the first NeurIPS unlearning
        competition, arXiv:2406.09073

    Differences from the authors' released code:
        Every threshold is tried, exactly; theirs stops with an error as released, and prints no floor.
    """

    basic: ClassVar[bool] = False
    models: int = knob(16, "unlearned models, and oracles on each side", ge=3)
    double: bool = knob(False, "attacks by two thresholds as well")

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        return {"unlearned": self.models, "shadow": 2 * self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """The score, as a multiple of its floor and by itself, and the median ε."""
        done = ev.crowd("unlearned", self.models)
        oracles, others = ev.crowd("shadow", 2 * self.models).margins("forget").chunk(2)
        crowds = {
            "unlearned": done.margins("forget"),
            "original": done.before.margins("forget"),
            "floor": others,
        }
        eps = {who: epsilon(seen, oracles, self.double) for who, seen in crowds.items()}
        quality = {who: forgetting_quality(e, self.models) for who, e in eps.items()}
        floor = float(quality["floor"].mean())
        ratio = {who: q / floor if floor else q * float("nan") for who, q in quality.items()}
        mine = eps["unlearned"].clamp_max(CAP)
        ends = over_examples(
            lambda rows: float(mine[torch.as_tensor(rows)].median()), len(mine), seed=ev.seed
        )
        middle = {who: float(e.clamp_max(CAP).median()) for who, e in eps.items()}
        return [
            self._score("quality", ratio, headline=True),
            self._score("score", quality),
            self._made("median", middle, Aim.DOWN, len(mine), **ends),
        ]

    def _score(self, what: str, found: dict[str, Tensor], **rest: Any) -> Score:
        value, mine = {who: float(q.mean()) for who, q in found.items()}, found["unlearned"]
        return self._made(what, value, Aim.UP, len(mine), **ends_of_mean(mine), **rest)

    def _made(self, what: str, value: dict[str, float], aim: Aim, n: int, **rest: Any) -> Score:
        return Score(name=f"epsilon/{what}", metric=self.name, variant="double" if self.double else "single",
                     value=value["unlearned"], original=value["original"], floor=value["floor"], aim=aim, n=n, **rest)  # fmt: skip
