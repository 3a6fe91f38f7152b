"""What can still be read off the features: nearest neighbours and a linear probe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.representations import knn_accuracy, linear_accuracy
from unlearn.ops.sets import scored
from unlearn.ops.stats import wilson
from unlearn.registry import metrics
from unlearn.subject import EmbedsClasses


@metrics.register("probe")
class Probe(Metric):
    """How well the classes can be read off the features by somebody who has some labelled examples.

    On features of the held-out examples that are set aside to fit attacks, all classes among them, a logistic regression
    is fitted (`probe/linear`), and neighbours by cosine vote (`probe/knn`); both answer the forget set and the held-out
    sets that are scored. A model whose last layer alone was edited answers a removed class as before; one that never
    saw it, the oracle, may as well, which is the reference.

    References:
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991
        Alain and Bengio, 2016, Understanding intermediate layers using linear classifier probes, arXiv:1610.01644
    """

    needs: ClassVar[type] = EmbedsClasses
    basic: ClassVar[bool] = False
    neighbours: int = knob(5, "neighbours that vote", ge=1)
    penalty: float = knob(1.0, "inverse strength C of the L2 penalty of the linear probe", gt=0)

    def measure(self, ev: Evidence) -> list[Score]:
        """Accuracy of both on each set."""
        probes = {"linear": self._linear, "knn": self._near}
        places = [where for where in scored(ev) if where != "retain"]
        return [self._score(ev, name, where, of) for name, of in probes.items() for where in places]

    def _score(self, ev: Evidence, name: str, where: str, of: Callable[[Evidence, str, str], float]) -> Score:
        value = functools.cache(functools.partial(of, ev))
        n = len(ev.y(where))
        low, high = wilson(round(value("unlearned", where) * n), n)
        return ev.level(f"probe/{name}/{where}", lambda who: value(who, where), Aim.MATCH, metric=self.name, n=n,
                        low=low, high=high, interval="wilson 95 %")  # fmt: skip

    def _linear(self, ev: Evidence, who: str, where: str) -> float:
        x, y = _sorted(ev, who, "fit")
        return linear_accuracy(x, y, ev.features(who, where), ev.y(where), self.penalty)

    def _near(self, ev: Evidence, who: str, where: str) -> float:
        x, y = _sorted(ev, who, "fit")
        return knn_accuracy(x, y, ev.features(who, where), ev.y(where), self.neighbours)


def _sorted(ev: Evidence, who: str, where: str) -> tuple[Tensor, Tensor]:
    """Features (N, D) in float64 and classes (N,) of a set, in the order of the ids of its examples."""
    order = ev.index(where).argsort()
    return ev.features(who, where)[order].double(), ev.y(where)[order]
