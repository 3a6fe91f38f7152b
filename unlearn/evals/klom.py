"""KL divergence of margins (KLoM): unlearned models against retrained ones, example by example."""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.ensembles import klom, klom_gauss
from unlearn.ops.sets import like_retain
from unlearn.ops.stats import over_examples
from unlearn.registry import metrics


@metrics.register("klom")
class Klom(Metric):
    """How far each example's margins in the method's models lie from those in retrained ones.

    `models` originals of other seeds unlearn the same forget set, and as many oracles are trained. On the forget set, the
    retain set and held-out examples, the divergence of the former's margins from the latter's: mean and 95th percentile over
    examples. By normal distributions (`form="gauss"`), which serves few models, or by histograms, which needs a hundred:
    see `unlearn.ops.ensembles`. The floor is the divergence between as many further oracles and the same ones: a value
    near it is as good as retraining, whatever its size. `original` is that of the models before anything was unlearned.

    References:
        Georgiev et al., 2024, arXiv:2410.23232
    """

    basic: ClassVar[bool] = False
    models: int = knob(8, "unlearned models, and oracles on each side", ge=2)
    form: Literal["gauss", "binned", "binned@released"] = knob("gauss", "how distributions are compared")

    def wants(self) -> dict[str, int]:
        """See `Metric.wants`."""
        return {"unlearned": self.models, "shadow": 2 * self.models}

    def measure(self, ev: Evidence) -> list[Score]:
        """Mean and 95th percentile on each set."""
        done, shadows = ev.crowd("unlearned", self.models), ev.crowd("shadow", 2 * self.models)

        @functools.cache
        def of(who: str, where: str) -> Tensor:
            oracles, others = shadows.margins(where).chunk(2)
            said = {"floor": lambda: others, "unlearned": lambda: done.margins(where),
                    "original": lambda: done.before.margins(where)}  # fmt: skip
            return self.between(said[who](), oracles)

        return [
            self._score(f"klom/{where}{suffix}", {who: of(who, where) for who in ("floor", "unlearned", "original")}, share,
                        ev.seed, headline=where == "forget" and not suffix)
            for where in dict.fromkeys(("forget", "retain", like_retain(ev)))
            for suffix, share in (("", None), ("/p95", 0.95))
        ]  # fmt: skip

    def between(self, u: Tensor, o: Tensor) -> Tensor:
        """Divergence of each example, with shape (N,), of margins (U, N) from margins (O, N)."""
        if self.form == "gauss":
            return klom_gauss(u, o)
        return klom(u, o, released=self.form == "binned@released")

    def _score(
        self, name: str, found: dict[str, Tensor], share: float | None, seed: int, headline: bool
    ) -> Score:
        def one(values: Tensor) -> float:
            return float(values.mean() if share is None else values.quantile(share))

        mine = found["unlearned"]
        return Score(name=name, metric=self.name, variant=self.form, value=one(mine), original=one(found["original"]),
                     floor=one(found["floor"]), aim=Aim.DOWN, n=len(mine), unit="nats", headline=headline,
                     **over_examples(lambda rows: one(mine[torch.as_tensor(rows)]), len(mine), seed=seed))  # fmt: skip
