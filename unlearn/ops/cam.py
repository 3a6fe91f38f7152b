"""Where a classifier looks: maps of the pixels that speak for an example's class, and how far two of them overlap."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unlearn.data import Batch
from unlearn.errors import Mismatch
from unlearn.ops.hooks import watching
from unlearn.subject import Classifies, mode


def grad_cam(subject: Classifies, batch: Batch) -> Tensor:
    """Grad-CAM of each example's own class, without its ReLU, with shape (B, h, w).

    With A the output (B, C, h, w) of the last module that gives maps of more than one place, and z_y the logit of the
    target, Σ_c α_c A_c with α_c = mean over places of ∂z_y / ∂A_c. Where only a global mean and a linear layer follow it
    is the class activation map of Zhou et al. divided by h w.

    Args:
        subject: The model.
        batch: Inputs and targets.

    Raises:
        Mismatch: If no module gives such maps.

    References:
        Selvaraju et al., 2017, Grad-CAM: visual explanations from deep networks, arXiv:1610.02391
        Zhou et al., 2016, Learning deep features for discriminative localization, arXiv:1512.04150
    """
    seen: dict[str, Tensor] = {}

    def see(_module: nn.Module, _inputs: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2] * out.shape[3] > 1:
            seen["maps"] = out

    x = batch.x.detach()
    if x.is_floating_point():
        x = x.clone().requires_grad_(True)  # so that there are gradients in a frozen model
    everything = list(subject.module.modules())
    with torch.enable_grad(), mode(subject.module, train=False), watching(everything, see):
        own = subject.outputs(dataclasses.replace(batch, x=x)).gather(1, batch.y[:, None]).sum()
    if "maps" not in seen:
        raise Mismatch(
            f"{type(subject.module).__name__} has no layer that gives maps of more than one place, with shape (B, C, h, w); class activation maps need one"
        )
    maps = seen["maps"]
    (slope,) = torch.autograd.grad(own, maps)
    return (slope.mean((2, 3), keepdim=True) * maps).sum(1).detach()


def hottest(maps: Tensor, size: tuple[int, int], share: float) -> Tensor:
    """Which pixels of an image are the hottest, with shape (B, H W).

    Maps are interpolated bilinearly to the size of the image; of equals at the threshold all count.

    Args:
        maps: With shape (B, h, w).
        size: H and W.
        share: Of the pixels, at least one.
    """
    wide = interpolate(maps.double()[:, None], size, mode="bilinear").flatten(1)
    k = max(1, round(share * wide.shape[1]))
    return wide >= wide.topk(k, dim=1).values[:, -1:]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of sets of pixels, with shape (B,); NaN where one of them is empty.

    Args:
        a: With shape (B, P), bool.
        b: With shape (B, P), bool.

    Example:
        >>> overlap(torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]])).tolist()
        [0.3333333333333333]
    """
    found = (a & b).sum(1).double() / (a | b).sum(1)
    return torch.where(a.any(1) & b.any(1), found, torch.nan)
