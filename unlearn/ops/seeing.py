"""An image classifier of transformers as a judge of drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unlearn.errors import BadValue
from unlearn.ops.pictures import Frame
from unlearn.ops.pretrained import load_classifier
from unlearn.request import class_id
from unlearn.sources import Pixels

AT_ONCE = 64  # drawings that it looks at in one pass
BICUBIC = 3  # as PIL numbers it
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Judge:
    """Sees in a drawing one of the labels of a classifier, see `unlearn.gallery.Gallery`.

    Attributes:
        names: The labels, less `nothing`.
        net: The classifier.
        order: Its outputs in the order of `names`, with shape (K,).
        blank: Its output for `nothing`, or None where it has no such label: then every drawing shows something.
        frame: Size and colours of its images.
        pixels: Their normalisation.
    """

    names: tuple[str, ...]
    net: nn.Module
    order: Tensor
    blank: int | None
    frame: Frame
    pixels: Pixels

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K + 1) of images (B, 3, H, W) between 0 and 1; the last is that of nothing."""
        return torch.cat([self._seen(part) for part in images.split(AT_ONCE)])

    def place(self, name: str) -> int:
        """The id of a name, whatever its case.

        Raises:
            BadValue: If it is no label.
        """
        return class_id(name.lower(), [n.lower() for n in self.names], "label of the judge")

    def _seen(self, images: Tensor) -> Tensor:
        net: Any = self.net.to(images.device)
        out: Tensor = net(self.pixels(framed(images, self.frame), None)).logits.float()
        last = out.amin(1) - 1 if self.blank is None else out[:, self.blank]
        return torch.cat([out[:, self.order.to(out.device)], last[:, None]], 1)


def framed(images: Tensor, frame: Frame) -> Tensor:
    """Images (B, 3, H, W) between 0 and 1 in the size and colours that a model wants."""
    if frame.channels == 1:
        images = images.mean(1, keepdim=True)
    if frame.size is None:
        return images
    high, wide = frame.size
    if frame.shortest:
        scale = frame.shortest / min(images.shape[2:])
        size = [int(side * scale) for side in images.shape[2:]]
    else:
        size = [high, wide]
    filtered = "bicubic" if frame.resample == BICUBIC else "bilinear"
    images = interpolate(images, size, mode=filtered, align_corners=False, antialias=True).clamp(0, 1)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    return images[:, :, top : top + high, left : left + wide]


def load_judge(where: str, names: Sequence[str]) -> Judge:
    """Reads a judge that knows some names.

    Args:
        where: Folder that `save_pretrained` of a transformers image classifier wrote, or a hub name.
        names: What it must be able to see.

    Raises:
        BadWeights: If there is none.
        BadValue: If it lacks a name.
    """
    found = load_classifier(where)
    labels = [label.lower() for label in found.classes]
    blank = labels.index(NOTHING) if NOTHING in labels else None
    order = [k for k in range(len(labels)) if k != blank]
    judge = Judge(
        tuple(found.classes[k] for k in order), found.module.eval().requires_grad_(False), torch.tensor(order),
        blank, found.frame, found.pixels,
    )  # fmt: skip
    for name in names:
        try:
            judge.place(name)
        except BadValue as err:
            raise BadValue(f"--judge {where}: {err}; give a judge that knows every name") from err
    return judge
