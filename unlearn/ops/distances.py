"""Where features lie: class centres, cosine distances to them, and the nearest wrong class."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlearn.data import Batch
from unlearn.errors import Mismatch
from unlearn.subject import Embeds, mode


@torch.no_grad()
def features_of(subject: Embeds, batches: Iterable[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, D), targets (N,) and ids (N,) of some batches, in evaluation mode."""
    with mode(subject.module, train=False):
        found = [(subject.features(b), b.y, b.index) for b in batches]
    v, y, index = (torch.cat(column) for column in zip(*found, strict=True))
    return v, y, index


def class_means(v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Class ids (J,), sorted, and the mean feature of each (J, D), summed in float64 on the CPU.

    Args:
        v: Features, with shape (N, D).
        y: Class ids, with shape (N,).

    Example:
        >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([4, 4, 7]))
        (tensor([4, 7]), tensor([[2.],
                [5.]]))
    """
    labels, place, n = y.cpu().unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(labels), v.shape[1], dtype=torch.float64)
    total.index_add_(0, place, v.detach().cpu().double())
    return labels.to(y.device), (total / n[:, None]).to(v)


def cosine_distance(v: Tensor, mu: Tensor) -> Tensor:
    """1 - cos of each row with each centre.

    Args:
        v: Features, with shape (B, D).
        mu: Centres, with shape (J, D).

    Returns:
        Distances from 0 to 2, with shape (B, J).
    """
    return 1 - normalize(v, dim=1) @ normalize(mu, dim=1).T


def nearest_wrong(d: Tensor, labels: Tensor, y: Tensor) -> Tensor:
    """Position of the nearest centre that is not the example's own: the first or the second nearest.

    Args:
        d: Distances, with shape (B, J).
        labels: Class id of each centre, with shape (J,).
        y: Class id of each example, with shape (B,).

    Raises:
        Mismatch: If an example has no wrong centre to go to.

    Example:
        >>> d = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
        >>> nearest_wrong(d, torch.tensor([0, 1, 3]), torch.tensor([0, 2]))
        tensor([1, 0])
    """
    own = labels[None] == y[:, None]
    if bool(own.all(1).any()):
        raise Mismatch(
            f"an example of class {int(labels[0])} has no other class to go to; retain examples of at least two classes"
        )
    return d.masked_fill(own, torch.inf).argmin(1)
