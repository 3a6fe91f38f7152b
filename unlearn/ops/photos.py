"""Images that need no download: patches of the photographs that scikit-learn ships."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unlearn.sources import Arrays


def photo_patches(n: int, size: int, channels: int, seed: int = 0) -> Arrays:
    """Square patches of real photographs at random places and scales, mirrored at random.

    Args:
        n: Number of patches.
        size: Side of a patch, in pixels.
        channels: 1 for grey, 3 for colour.
        seed: Of the choice.

    Returns:
        A source of uint8 images (n, channels, size, size); the targets are zero and mean nothing.
    """
    from sklearn.datasets import load_sample_images

    rng = torch.Generator().manual_seed(seed)
    photos = [torch.tensor(i).permute(2, 0, 1).float() for i in load_sample_images().images]
    patches = torch.stack([_patch(photos[i % len(photos)], size, rng) for i in range(n)])
    if channels == 1:
        patches = patches.mean(1, keepdim=True)
    return Arrays(patches.round().to(torch.uint8), torch.zeros(n, dtype=torch.long))


def which_photo(n: int, shape: tuple[int, int, int], seed: int = 0) -> Arrays:
    """A labelled task that needs no download: which of two photographs a patch is from.

    Args:
        n: Number of patches, of both photographs by turns.
        shape: Channels, 1 or 3, height and width of a patch.
        seed: Of the choice; with another one other patches than those of `photo_patches`.

    Returns:
        A source of uint8 images (n, C, H, W); the targets are 0 and 1.
    """
    channels, height, width = shape
    square = photo_patches(n, max(height, width), channels, seed)
    return Arrays(square.x[:, :, :height, :width].contiguous(), torch.arange(n) % 2)


def _patch(photo: Tensor, size: int, rng: torch.Generator) -> Tensor:
    _, h, w = photo.shape
    u = torch.rand(4, generator=rng)
    side = int(size * (1 + float(u[0]) * (min(h, w) / size / 2 - 1)))
    top, left = int(u[1] * (h - side)), int(u[2] * (w - side))
    crop = photo[:, top : top + side, left : left + side]
    small = interpolate(crop[None], (size, size), mode="area")[0]
    return small.flip(2) if u[3] < 0.5 else small
