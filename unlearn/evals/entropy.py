"""How conspicuous the forgotten examples are."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.signals import entropies, log_probabilities
from unlearn.ops.stats import Rows, over_examples
from unlearn.registry import metrics


@metrics.register("entropy")
class Entropy(Metric):
    """Whether the model is more or less sure on forgotten examples than on like ones never seen.

    `w1` is the first Wasserstein distance between the entropies of the predictions on the forget set and on
    like held-out examples, in nats. `streisand` is the share of the forget set whose loss exceeds the 99th
    percentile of theirs: an example that was forgotten too well is more visible than before.

    References:
        Golatkar et al., 2020, Eternal sunshine of the spotless net, arXiv:1911.04933 (Streisand effect)
        Chundawat et al., 2023, Can bad teaching induce forgetting?, arXiv:2205.08096
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """Two scores."""
        sizes = len(ev.y("forget")), len(ev.y("audit"))
        n = sum(sizes)
        if not len(ev.y("audit")):
            return []

        @functools.cache
        def sure(who: str, where: str) -> Tensor:
            return entropies(log_probabilities(ev.outputs(who, where)))

        @functools.cache
        def losses(who: str, where: str) -> Tensor:
            return ev.losses(who, where)

        def spread(who: str, f: Rows = ..., a: Rows = ...) -> float:
            return w1(sure(who, "forget")[f], sure(who, "audit")[a])

        def share(who: str, f: Rows = ..., a: Rows = ...) -> float:
            return beyond(losses(who, "forget")[f], losses(who, "audit")[a], 0.99)

        def ends(of: Callable[..., float]) -> Ends:
            return over_examples(functools.partial(of, "unlearned"), *sizes, seed=ev.seed)

        return [
            ev.level("entropy/w1", spread, Aim.MATCH, metric=self.name, unit="nats", n=n, **ends(spread)),
            ev.level("entropy/streisand", share, Aim.MATCH, metric=self.name, n=n, **ends(share)),
        ]  # fmt: skip


def w1(a: Tensor, b: Tensor) -> float:
    """First Wasserstein distance between two samples, with shapes (M,) and (N,).

    Example:
        >>> import torch
        >>> w1(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 6.0, 8.0]))
        5.0
    """
    from scipy.stats import wasserstein_distance

    if not (a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    return float(wasserstein_distance(a.numpy(), b.numpy()))


def beyond(values: Tensor, others: Tensor, level: float) -> float:
    """Share of `values` (M,) above a quantile of `others` (N,), linear between neighbours.

    Example:
        >>> import torch
        >>> beyond(torch.tensor([1.0, 2.5, 9.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]), 0.5)
        0.75
    """
    if values.isnan().any() or others.isnan().any():
        return float("nan")
    return float((values.double() > others.double().quantile(level)).double().mean())
