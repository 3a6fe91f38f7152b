"""Distance in weight space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlearn.errors import Mismatch
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.registry import metrics
from unlearn.subject import Subject


@metrics.register("weight-distance")
class WeightDistance(Metric):
    """How far the weights moved from the original, and how far they are from the oracle.

    ‖θ − θ'‖ / ‖θ'‖ over all parameters, with θ' the original or the oracle. Descriptive: two oracles are far
    apart, so that only the distance from the original says something, namely how much was touched.

    References:
        Golatkar et al., 2020, Eternal sunshine of the spotless net, arXiv:1911.04933
    """

    needs = Subject

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each reference; unknown where what came back holds other parameters than the original."""
        modules = {who: s.module for who, s in ev.subjects.items()}
        if _shapes(_weights(modules["unlearned"])) != _shapes(_weights(modules["original"])):
            note = "not defined: what is served holds other parameters than the original"
            names = (f"{self.name}/original", f"{self.name}/oracle")
            return [Score(name=n, metric=self.name, value=None, aim=Aim.DOWN, note=note) for n in names]
        moved = weight_distance(_weights(modules["unlearned"]), _weights(modules["original"]))
        return [
            Score(name="weight-distance/original", metric=self.name, value=moved, original=0.0, aim=Aim.DOWN),
            ev.distance(
                "weight-distance/oracle",
                lambda a, b: weight_distance(_weights(modules[a]), _weights(modules[b])),
                Aim.DOWN, metric=self.name, note="descriptive: two oracles are far apart as well",
            ),
        ]  # fmt: skip


def weight_distance(theta: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Euclidean distance from the reference, divided by the reference's norm, in float64.

    Args:
        theta: Parameters by name.
        reference: Parameters of the same names and shapes.

    Raises:
        Mismatch: If names or shapes differ.

    Example:
        >>> round(weight_distance({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 3.0])}), 6)
        0.235702
    """
    if _shapes(theta) != _shapes(reference):
        raise Mismatch(
            "weight-distance compares models of one architecture, and the parameters differ in name or shape; leave the metric out"
        )
    apart = [(theta[n].double() - r.double()).norm() for n, r in reference.items()]
    size = [r.double().norm() for r in reference.values()]
    return float(torch.stack(apart).norm() / torch.stack(size).norm())


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().cpu() for n, p in module.named_parameters()}


def _shapes(theta: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {n: p.shape for n, p in theta.items()}
