"""Agreement with the oracle."""

from __future__ import annotations

from torch import Tensor

from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.stats import ends_of_share
from unlearn.registry import metrics


@metrics.register("agreement")
class Agreement(Metric):
    """Share of examples on which the model predicts the class that the oracle predicts.

    Also called completeness. Two oracles do not agree everywhere: the floor, where there is one, is the
    ceiling of this score.

    References:
        Cao and Yang, 2015, Towards making systems forget with machine unlearning, IEEE S&P
    """

    def measure(self, ev: Evidence) -> list[Score]:
        """One score for each set."""
        return [self._score(ev, where) for where in ("forget", "test")]

    def _score(self, ev: Evidence, where: str) -> Score:
        return ev.distance(
            f"agreement/{where}", lambda a, b: agreement(ev.outputs(a, where), ev.outputs(b, where)), Aim.UP,
            lambda: ends_of_share(alike(ev.outputs("unlearned", where), ev.outputs("oracle", where))),
            metric=self.name, n=len(ev.y(where)),
        )  # fmt: skip


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of rows with the same largest entry.

    Args:
        a: Logits of one model, with shape (N, C).
        b: Logits of the other, with shape (N, C).

    Example:
        >>> import torch
        >>> eye = torch.eye(2)
        >>> agreement(eye, eye), agreement(eye, torch.ones(2, 1) * eye[0])
        (1.0, 0.5)
    """
    return float(alike(a, b).double().mean())


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Whether the largest entries of two rows stand in the same place, with shape (N,); see `agreement`."""
    return a.argmax(1) == b.argmax(1)
