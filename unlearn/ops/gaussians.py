"""Class-wise feature distributions in one pass, who lends them, and the distances that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

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
        power: Exponent δ, see `signed_power`.
        size: Examples in a pass.
    """
    moments: Moments | None = None
    with mode(subject.module, train=False):
        for batch in data.batches(size):
            v = signed_power(subject.features(batch), power)
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


def signed_power(v: Tensor, power: float) -> Tensor:
    """φ(v) = sign(v) |v|^δ, elementwise: v^δ where v is not negative, as after a ReLU.

    The gradient at 0 is 0. That of v^½ is infinite there, and a dropped unit would turn it into NaN.

    Args:
        v: Features, of any shape.
        power: Exponent δ above 0.

    Example:
        >>> signed_power(torch.tensor([4.0, 0.0, -9.0]), 0.5)
        tensor([ 2.,  0., -3.])
    """
    if power == 1:
        return v
    safe = torch.where(v == 0, 1, v)
    return torch.where(v == 0, 0, safe.sign() * safe.abs().pow(power))


def shrink(cov: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """S(Σ) = Σ + γ1 V1 I + γ2 V2 (J - I), with J all ones.

    V1 is the mean variance, V2 the mean of the covariances that are not zero.

    Args:
        cov: Σ, with shape (D, D).
        gamma1: γ1.
        gamma2: γ2.

    Example:
        >>> shrink(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), 3, 3)
        tensor([[11.,  4.],
                [ 4., 13.]])
    """
    eye = torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    off = cov * (1 - eye)
    v1, v2 = cov.diagonal().mean(), off.sum() / (off != 0).sum().clamp_min(1)
    return cov + gamma1 * v1 * eye + gamma2 * v2 * (1 - eye)


def precision(cov: Tensor, gamma1: float, gamma2: float, times: int) -> Tensor:
    """P = pinv(R) of the correlations R_ab = S_ab / √(S_aa S_bb) of the covariance shrunk `times` over.

    A class without spread, as one of a single example has, gets R = I.

    Args:
        cov: Σ, with shape (D, D), in float64 on the CPU.
        gamma1: γ1 of `shrink`.
        gamma2: γ2 of `shrink`.
        times: How often Σ is shrunk.

    Returns:
        P, with shape (D, D).
    """
    for _ in range(times):
        cov = shrink(cov, gamma1, gamma2)
    spread = cov.diagonal().sqrt()
    r = (cov / torch.outer(spread, spread)).nan_to_num(0, 0, 0)
    p: Tensor = torch.linalg.pinv(r.fill_diagonal_(1), hermitian=True)
    return p


@dataclass(frozen=True, slots=True)
class ClassSpace:
    """Distances of features to class distributions, d_j = (u - m_j)ᵀ P_j (u - m_j).

    u = φ(v) / ‖φ(v)‖ and m_j = μ_j / ‖μ_j‖ are unit vectors, while P_j comes from features φ(v) that are not
    normalised. The square root is not taken.

    Attributes:
        labels: Class ids, with shape (J,).
        mean: m_j, with shape (J, D).
        precision: P_j, with shape (J, D, D).
        power: Exponent δ of φ.
    """

    labels: Tensor
    mean: Tensor
    precision: Tensor
    power: float

    @classmethod
    def of(
        cls, stats: Gaussians, power: float, gamma1: float, gamma2: float, times: int, like: Tensor
    ) -> Self:
        """Builds the distances on the CPU in float64; moves them to the device and type of `like`.

        Args:
            stats: Class means and covariances of φ(v).
            power: Exponent δ of φ.
            gamma1: γ1 of `shrink`.
            gamma2: γ2 of `shrink`.
            times: How often covariances are shrunk.
            like: Features, of any shape.
        """
        p = torch.stack([precision(c.cpu().double(), gamma1, gamma2, times) for c in stats.cov])
        m = normalize(stats.mean.cpu().double(), dim=1)
        return cls(stats.labels.to(like.device), m.to(like), p.to(like), power)

    def distances(self, v: Tensor) -> Tensor:
        """Distances of features (B, D) to every class, with shape (B, J)."""
        offset = normalize(signed_power(v, self.power), dim=1) - self.mean[:, None]
        d: Tensor = (offset @ self.precision * offset).sum(2).T
        return d
