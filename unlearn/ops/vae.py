"""A small variational autoencoder of feature vectors."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal

HIDDEN = (128, 32)
BATCH = 32


class FeatureVAE(nn.Module):
    """Maps features to a Gaussian of few dimensions and a draw from it back to features.

    Args:
        width: Dimensions D of a feature.
        latent: Dimensions q of the Gaussian.
        squash: Whether what comes back goes through a sigmoid, so that it lies between 0 and 1.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes, arXiv:1312.6114
    """

    def __init__(self, width: int, latent: int, squash: bool = False) -> None:
        super().__init__()
        wide, narrow = HIDDEN
        self.encoder = nn.Sequential(nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(narrow, latent), nn.Linear(narrow, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.ReLU(), nn.Linear(wide, width),
            nn.Sigmoid() if squash else nn.Identity(),
        )  # fmt: skip

    def forward(self, e: Tensor, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What comes back of features (B, D), and means and log-variances (B, q) of their Gaussians."""
        h = self.encoder(e)
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decoder(mean + (log_variance / 2).exp() * normal(mean, rng)), mean, log_variance


def vae_loss(e: Tensor, back: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Mean over examples of ‖ê − e‖² + β KL(N(μ, σ²) ‖ N(0, I)).

    Args:
        e: Features, with shape (B, D).
        back: What came back of them, ê, with shape (B, D).
        mean: μ, with shape (B, q).
        log_variance: log σ², with shape (B, q).
        beta: Weight β.

    Example:
        >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
        >>> vae_loss(one, zero, one, zero, 0.5)
        tensor(2.5000)
    """
    kl = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1) / 2
    return ((back - e).square().sum(1) + beta * kl).mean()


def fit_vae(vae: nn.Module, e: Tensor, rng: Generator, epochs: int, lr: float, beta: float) -> None:
    """Trains an autoencoder in place with Adam on shuffled batches of 32, then freezes it.

    Args:
        vae: The autoencoder, see `FeatureVAE`.
        e: Features, with shape (N, D).
        rng: Shuffles, and draws what the autoencoder draws.
        epochs: Passes over the features.
        lr: Step size of Adam.
        beta: Weight of the divergence from the prior, see `vae_loss`.
    """
    opt = torch.optim.Adam(vae.parameters(), lr)
    for _ in range(epochs):
        order = torch.randperm(len(e), generator=rng, device=rng.device).to(e.device)
        for rows in order.split(BATCH):
            back, mean, log_variance = vae(e[rows], rng)
            descend(opt, vae_loss(e[rows], back, mean, log_variance, beta))
    vae.eval().requires_grad_(False)
