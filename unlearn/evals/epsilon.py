"""Forgetting quality of the NeurIPS 2023 unlearning challenge: how well sets of models can be told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.ensembles import CAP, comparator, epsilon, epsilon_released, forgetting_quality
from unlearn.ops.shadows import margins
from unlearn.ops.signals import entropies, log_probabilities
from unlearn.ops.stats import ends_of_mean, over_examples
from unlearn.registry import metrics

COMPARED: tuple[tuple[Callable[[Tensor], Tensor], tuple[float, float]], ...] = (
    (lambda logits: entropies(log_probabilities(logits / 2)), (0.0, 2.5)),
    (lambda logits: margins(logits, logits.argmax(1)), (-2.5, 10.0)),
)
"""What Unlearning Comparator looks at, of logits (N, C), and its first and last threshold."""


@metrics.register("epsilon")
class Epsilon(Metric):
    """How well attacks tell unlearned models from retrained ones by each forgotten example's margin.

    `models` originals of other seeds unlearn the same forget set, and as many oracles are trained. Over all thresholds,
    ε = max(log((1 − δ − FPR) / FNR), log((1 − δ − FNR) / FPR)) for each example, and F is the mean of H(ε) = 2^−⌊ε / 0.5⌋; see
    `unlearn.ops.ensembles`. F of two sets of oracles is far below 1 (about 0.22 with one threshold, 0.05 to 0.1 with
    two), so `epsilon/quality` is F as a multiple of that floor, and F itself comes with it.

    `form="comparator"` is the number of the same name in Unlearning Comparator, a much weaker attack: one unlearned
    model and one oracle, one histogram of all forgotten examples, 51 fixed thresholds, and the smaller of the two ratios;
    FQ = 2^−ε, mean of that by the entropy at temperature 2 and that by the confidence. A parity score.

    References:
        Lee et al., 2025, Unlearning Comparator: a visual analytics system for comparative evaluation of machine
        unlearning methods, arXiv:2508.12730
        Triantafillou et al., 2024, Are we making progress in unlearning? Findings from the first NeurIPS unlearning
        competition, arXiv:2406.09073

    Differences from the authors' released code:
        Every threshold is tried, exactly; theirs tries a hundred to a unit, one direction of each, stops with an error as
        released, and prints no floor. `form="challenge@released"` is theirs without the error, by one and two thresholds:
        F of two sets of oracles is about 0.19 there.
    """

    basic: ClassVar[bool] = False
    models: int = knob(16, "unlearned models, and oracles on each side", ge=3)
    double: bool = knob(False, "attacks by two thresholds as well")
    form: Literal["challenge", "challenge@released", "comparator"] = knob(
        "challenge", "which of the definitions in use"
    )

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        if self.form == "comparator":
            return {}
        return {"unlearned": self.models, "shadow": 2 * self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """The score, as a multiple of its floor and by itself, and the median ε."""
        if self.form == "comparator":
            return [self._parity(ev)]
        done = ev.crowd("unlearned", self.models)
        oracles, others = ev.crowd("shadow", 2 * self.models).margins("forget").chunk(2)
        crowds = {
            "unlearned": done.margins("forget"),
            "original": done.before.margins("forget"),
            "floor": others,
        }
        eps = {who: self.between(seen, oracles) for who, seen in crowds.items()}
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

    def between(self, u: Tensor, o: Tensor) -> Tensor:
        """ε of each example, with shape (N,), of margins (M, N) of unlearned models and of oracles."""
        if self.form == "challenge@released":
            return epsilon_released(u, o)
        return epsilon(u, o, self.double)

    def _parity(self, ev: Evidence) -> Score:
        def quality(a: str, b: str) -> float:
            u, o = (ev.outputs(who, "forget") for who in (a, b))
            found = [comparator(of(u), of(o), *ends) for of, ends in COMPARED]
            return sum(2**-e for e in found) / len(found)

        return ev.distance(
            "epsilon/quality", quality, Aim.UP, metric=self.name, variant=self.form, n=len(ev.y("forget")),
            note="parity: one pair of models, one histogram of all forgotten examples",
        )  # fmt: skip

    def _score(self, what: str, found: dict[str, Tensor], **rest: Any) -> Score:
        value, mine = {who: float(q.mean()) for who, q in found.items()}, found["unlearned"]
        return self._made(what, value, Aim.UP, len(mine), **ends_of_mean(mine), **rest)

    def _made(self, what: str, value: dict[str, float], aim: Aim, n: int, **rest: Any) -> Score:
        variant = self.form if self.form != "challenge" else "double" if self.double else "single"
        return Score(name=f"epsilon/{what}", metric=self.name, variant=variant,
                     value=value["unlearned"], original=value["original"], floor=value["floor"], aim=aim, n=n, **rest)  # fmt: skip
