"""Class-wise feature distributions in one pass, and the lender that hides the examples behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.data import Gaussians, Handle
from unlearn.subject import Embeds, mode


class Moments:
    """Streaming counts, means and covariances of each class, in float64.

    Args:
        dim: Features D.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._sums: dict[int, tuple[int, Tensor, Tensor]] = {}

    def add(self, features: Tensor, y: Tensor) -> None:
        """Takes a batch.

        Args:
            features: With shape (B, D).
            y: Class ids, with shape (B,).
        """
        features = features.detach().cpu().double()
        for c in y.unique().tolist():
            v = features[(y == c).cpu()]
            n, s, q = self._sums.get(
                c, (0, torch.zeros(self.dim).double(), torch.zeros(self.dim, self.dim).double())
            )
            self._sums[c] = n + len(v), s + v.sum(0), q + v.T @ v

    def gaussians(self) -> Gaussians:
        """Means (J, D) and unbiased covariances (J, D, D) of the classes seen, sorted by id."""
        labels, means, covs = sorted(self._sums), [], []
        for c in labels:
            n, s, q = self._sums[c]
            mean = s / n
            means.append(mean)
            covs.append((q - n * torch.outer(mean, mean)) / max(n - 1, 1))
        return Gaussians(torch.tensor(labels), torch.stack(means), torch.stack(covs))


@torch.no_grad()
def class_moments(subject: Embeds, data: Handle, power: float = 1.0, size: int = 256) -> Gaussians:
    """Mean and covariance of each class over features raised to `power`, in evaluation mode.

    Args:
        subject: The model.
        data: Examples with class ids.
        power: Exponent δ, elementwise; features must not be negative where it is no whole number.
        size: Examples in a pass.
    """
    moments: Moments | None = None
    with mode(subject.module, train=False):
        for batch in data.batches(size):
            v = subject.features(batch).pow(power)
            moments = moments or Moments(v.shape[1])
            moments.add(v, batch.y)
    assert moments is not None, "an empty set has no statistics"
    return moments.gaussians()


class Lender:
    """Lends class statistics of a set and no example of it.

    Args:
        subject: The original model.
        data: The retain set, counted by the bench.
    """

    def __init__(self, subject: Embeds, data: Handle) -> None:
        self._subject, self._data = subject, data

    def gaussians(self, power: float = 1.0) -> Gaussians:
        """Mean and covariance of each class, see `class_moments`; on the CPU in float64."""
        return class_moments(self._subject, self._data, power)
