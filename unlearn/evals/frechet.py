"""Fréchet distance of drawings in the features of named networks."""

from __future__ import annotations

from typing import ClassVar

from unlearn.metric import Evidence, Metric, Score
from unlearn.ops.drawn import between_sets
from unlearn.ops.frechet import frechet
from unlearn.registry import metrics
from unlearn.subject import Draws


@metrics.register("frechet")
class Frechet(Metric):
    """How far the drawings moved as a set, by means and covariances of a named network's features.

    For each network of the scenario, the Fréchet distance between Gaussians fitted to its features of two sets of
    drawings: `others`, from the original's drawings of the prompts without the concept, which is damage, and
    `oracle`, from the oracle's drawings of all prompts. All models draw from the same noise, so a model has no
    distance from itself, and one less than that between independent drawings from a similar model. This is no FID:
    that is defined on the features of one Inception network.

    References:
        Dowson and Landau, 1982, The Fréchet distance between multivariate normal distributions
        Heusel et al., 2017, GANs trained by a two time-scale update rule, arXiv:1706.08500 (FID)
    """

    needs: ClassVar[type] = Draws
    basic: ClassVar[bool] = False

    def measure(self, ev: Evidence) -> list[Score]:
        """Two scores for each network."""
        return between_sets(ev, self.name, frechet, limits)


def limits(n: int, width: int) -> str:
    """What limits a distance between Gaussians of `width` features, each fitted to n drawings.

    Example:
        >>> limits(200, 64), limits(20, 64)
        ('not FID', 'not FID; fewer drawings than the 64 features, so covariances are singular')
    """
    few = f"; fewer drawings than the {width} features, so covariances are singular" if n <= width else ""
    return f"not FID{few}"
