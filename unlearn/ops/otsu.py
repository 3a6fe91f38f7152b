"""Where an image has its object, told by brightness alone."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold(values: Tensor, bins: int = 256) -> Tensor:
    """Otsu's threshold: it divides values into two classes with the largest variance between their means.

    Args:
        values: Of one image, between 0 and 1.
        bins: Of the histogram.

    Returns:
        The threshold, from which on a value is in the upper class.

    References:
        Otsu, 1979, A threshold selection method from gray-level histograms

    Example:
        >>> round(float(threshold(torch.tensor([0.1, 0.1, 0.2, 0.8, 0.9]))), 2)
        0.2
    """
    middle = (torch.arange(bins, device=values.device, dtype=torch.float64) + 0.5) / bins
    share = torch.histc(values.float(), bins, 0, 1).double() / values.numel()
    low, first = share.cumsum(0), (share * middle).cumsum(0)
    between = (first[-1] * low - first).square() / (low * (1 - low)).clamp_min(1e-12)
    return (between.argmax() + 1) / bins


def masks(images: Tensor) -> Tensor:
    """Marks the smaller of the two classes of brightness in each image: the strokes, or a figure before its ground.

    Args:
        images: With shape (B, C, H, W), between 0 and 1.

    Returns:
        1 for marked, else 0, with shape (B, 1, H, W).
    """
    grey = images.mean(1, keepdim=True)
    bright = torch.stack([g >= threshold(g) for g in grey])
    many = bright.float().mean((1, 2, 3), keepdim=True) > 0.5
    return (bright ^ many).to(images)
