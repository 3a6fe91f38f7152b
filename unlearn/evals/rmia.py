"""Robust membership inference attack (RMIA): each example against a population, from few shadow models."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Evidence, Metric, Score, Signal
from unlearn.ops.attacked import Attacked
from unlearn.ops.crowded import by_id, margins_of
from unlearn.ops.membership import Floats
from unlearn.ops.shadows import probabilities, rmia
from unlearn.registry import metrics


@metrics.register("rmia")
class Rmia(Metric):
    """How well an example's likelihood, relative to models without it, exceeds a population's.

    ratio(x) = p(x) / P(x) with P(x) = ½ ((1 + a) p̄_out(x) + 1 − a), and the signal is the share of held-out examples z, set
    aside to fit attacks, with ratio(x) / ratio(z) > γ; see `unlearn.ops.shadows.rmia`. The models are trained on random
    halves of the training set.

    References:
        Zarifzadeh et al., 2024, Low-cost high-power membership inference attacks, arXiv:2312.03262
    """

    basic: ClassVar[bool] = False
    models: int = knob(16, "models on random halves; an even number", ge=2)
    offset: float = knob(0.3, "offset a of the offline form", ge=0, le=1)
    gamma: float = knob(1.0, "threshold γ", gt=0)
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        return {"half": self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """The attack's scores."""
        return list(Attacked(ev, self.name, "rmia", self._signal(ev), self.draws).scores())

    def attacks(self, ev: Evidence) -> dict[str, Signal]:
        """See `Metric.attacks`."""
        return {"RMIA": self._signal(ev)}

    def _signal(self, ev: Evidence) -> Signal:
        crowd = ev.crowd("half", self.models)

        @functools.cache
        def out(where: str) -> Tensor:
            unseen = ~crowd.inside(where)
            return torch.where(unseen, probabilities(crowd.margins(where)), 0).sum(0) / unseen.sum(0)

        def signal(who: str, where: str) -> Floats:
            mine, population = (probabilities(margins_of(ev, who, w)) for w in (where, "fit"))
            seen = rmia(mine, out(where), population, out("fit"), self.offset, self.gamma)
            values: Floats = seen[by_id(ev, where)].numpy()
            return values

        return signal
