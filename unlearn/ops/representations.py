"""How alike the features of two models are, and what can still be read off them. All in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 4096  # of a similarity matrix that are held at once


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same examples, 0 to 1.

    ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms, of centred features; 1 for rotations and multiples of one another, 0 where
    those of either do not vary. With few examples for each feature it is too large, see `cka_debiased`.

    Args:
        x: With shape (N, D).
        y: With shape (N, E).

    References:
        Kornblith et al., 2019, Similarity of neural network representations revisited, arXiv:1905.00414

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
        >>> y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 0.0]])
        >>> round(cka(x, y), 6)
        0.857493
    """
    x, y = (f.double() - f.double().mean(0) for f in (x, y))
    return _ratio((x.T @ y).square().sum(), (x.T @ x).square().sum(), (y.T @ y).square().sum())


def cka_debiased(x: Tensor, y: Tensor) -> float:
    """The same from unbiased estimates of the three terms, about 0 for features that have nothing in common.

    Args:
        x: With shape (N, D), N at least 4.
        y: With shape (N, E).

    References:
        Song et al., 2012, Feature selection via dependence maximization, Journal of Machine Learning Research 13
    """
    x, y = x.double(), y.double()
    return _ratio(_hsic(x, y), _hsic(x, x), _hsic(y, y))


def cka_minibatch(x: Tensor, y: Tensor, size: int = 512) -> float:
    """Mean of `cka` over batches, as the code of arXiv:2503.06991 takes it; larger the smaller the batches."""
    parts = zip(x.split(size), y.split(size), strict=True)
    found = torch.tensor([cka(a, b) for a, b in parts], dtype=torch.float64)
    return float(found.mean())


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion with linear kernels, without a matrix (N, N)."""
    n = len(x)
    kx, ky = x.square().sum(1), y.square().sum(1)
    product = (x.T @ y).square().sum() - kx @ ky
    rows_x, rows_y = x @ x.sum(0) - kx, y @ y.sum(0) - ky
    total = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_x @ rows_y)
    found: Tensor = (product + total) / (n * (n - 3))
    return found


def _ratio(xy: Tensor, xx: Tensor, yy: Tensor) -> float:
    below = (xx * yy).clamp_min(0).sqrt()
    return float(xy / below) if below > 0 else 0.0


def knn_accuracy(train: Tensor, labels: Tensor, x: Tensor, y: Tensor, k: int = 5) -> float:
    """Share of examples whose class the k nearest by cosine vote for; of equal votes the smallest class.

    Args:
        train: Features to look among, with shape (N, D).
        labels: Their classes, with shape (N,).
        x: Features of the examples, with shape (M, D).
        y: Their classes, with shape (M,).
        k: Neighbours.
    """
    keys, classes, hits = normalize(train.double(), dim=1), int(labels.max()) + 1, 0
    for rows in torch.arange(len(x)).split(ROWS):
        near = (normalize(x[rows].double(), dim=1) @ keys.T).topk(min(k, len(keys)), dim=1).indices
        votes = torch.zeros(len(rows), classes).scatter_add_(1, labels[near], torch.ones(near.shape))
        hits += int((votes.argmax(1) == y[rows]).sum())
    return hits / len(x)


def linear_accuracy(train: Tensor, labels: Tensor, x: Tensor, y: Tensor, penalty: float = 1.0) -> float:
    """Share of examples whose class a logistic regression on standardised features names.

    Args:
        train: Features to fit on, with shape (N, D).
        labels: Their classes, with shape (N,); of one class alone, that is the answer.
        x: Features of the examples, with shape (M, D).
        y: Their classes, with shape (M,).
        penalty: Inverse strength C of the L2 penalty.

    Returns:
        The share, or NaN where a feature is not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not (train.isfinite().all() and x.isfinite().all()):
        return float("nan")
    if len(labels.unique()) < 2:
        return float((y == labels[0]).double().mean())
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))
    return float(probe.fit(train.double(), labels).score(x.double().numpy(), y.numpy()))


def hlr(outputs: Tensor, features: Tensor) -> float:
    """Harmonic mean of what is left of agreement with a retrained model in outputs and in features, 0 to 1.

    AGL = Π (1 − |gap|) over gaps of accuracies and attacks, AGR the same over gaps of CKA and k-NN accuracy, and
    2 AGL AGR / (AGL + AGR). Reconstructed: the paper's formula was not at hand.

    Args:
        outputs: Gaps of shares, with shape (A,).
        features: Gaps, with shape (B,).

    References:
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991 (reconstructed)

    Example:
        >>> round(hlr(torch.tensor([0.02, 0.01, 0.03]), torch.tensor([0.10, 0.05])), 6)
        0.895984
    """
    agl, agr = (float((1 - g.double().abs()).prod()) for g in (outputs, features))
    return 2 * agl * agr / (agl + agr) if agl + agr else 0.0
