"""What models draw of the same prompts from the same noise, as data for a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unlearn.gallery import Gallery, seen
from unlearn.metric import Evidence

COLUMNS = 12
TARGETS = 8
LARGEST = 128
"""Drawings are shrunk to this side, so that a page stays small."""

Data = dict[str, Any]
T = TypeVar("T")


def grid(ev: Evidence, gallery: Gallery, models: Sequence[str]) -> Data:
    """Some drawings of each model, and what the judge of the erased axis sees in them, where there is one.

    None stands for nothing.
    """
    rows = chosen(gallery)
    names = gallery.names[gallery.axis]
    asked = gallery.asked[gallery.axis][rows].tolist()
    made: Data = {
        "concept": gallery.concept,
        "axis": gallery.axis,
        "captions": [gallery.captions[r] for r in rows],
        "asked": [names[c] for c in asked],
        "asks": [c == gallery.target for c in asked],
        "images": {},
        "seen": {},
    }
    for who in models:
        if gallery.judged:
            found = seen(ev.judged(who, gallery.axis)[rows]).tolist()
            made["seen"][who] = [names[c] if c < len(names) else None for c in found]
        made["images"][who] = [png(shrunk(image)) for image in ev.images(who)[rows]]
    return made


def shares(ev: Evidence, gallery: Gallery, models: Sequence[str]) -> list[Data]:
    """For each axis with a judge, the erased one first, the share of each concept's prompts that each model draws right.

    On the other axes only prompts without the erased concept count, so that the means are those of the scores.
    A concept without prompts has the share None. On the erased axis there is also the whole matrix `drawn`: the
    shares of each concept's prompts, row by row, that show each concept, and last nothing.
    """
    asks = gallery.asks
    return [
        _axis(ev, gallery, axis, torch.ones_like(asks) if axis == gallery.axis else ~asks, models)
        for axis in sorted(gallery.judges, key=lambda a: a != gallery.axis)
    ]


def _axis(ev: Evidence, gallery: Gallery, axis: str, counted: Tensor, models: Sequence[str]) -> Data:
    asked, names = gallery.asked[axis][counted], gallery.names[axis]
    count = torch.bincount(asked, minlength=len(names)).tolist()
    drawn = {who: _matrix(asked, seen(ev.judged(who, axis)[counted]), count) for who in models}
    right = {who: [row[k] if row else None for k, row in enumerate(rows)] for who, rows in drawn.items()}
    made: Data = {"axis": axis, "names": list(names), "erased": None, "n": count, "right": right}
    return {**made, "erased": gallery.concept, "drawn": drawn} if axis == gallery.axis else made


def _matrix(asked: Tensor, found: Tensor, count: Sequence[int]) -> list[list[float] | None]:
    """Shares of each concept's prompts that show each concept and, last, nothing; None without prompts."""
    k = len(count)
    pairs = torch.bincount(asked * (k + 1) + found, minlength=k * (k + 1)).view(k, k + 1).tolist()
    return [[round(v / n, 5) for v in row] if n else None for row, n in zip(pairs, count, strict=True)]


def chosen(gallery: Gallery) -> list[int]:
    """Positions of the prompts to show, fixed before anything is drawn.

    First the target concept with each concept of the other axes, then one prompt for each neighbour on its own
    axis, with another concept of the other axes each time; where there are too many, evenly spaced ones.
    """
    others = [a for a in gallery.names if a != gallery.axis]

    def pairs(concept: int) -> list[int]:
        first: dict[tuple[int, ...], int] = {}
        for row in (gallery.asked[gallery.axis] == concept).nonzero().flatten().tolist():
            first.setdefault(tuple(int(gallery.asked[a][row]) for a in others), row)
        return list(first.values())

    near = [p for c in range(len(gallery.names[gallery.axis])) if c != gallery.target and (p := pairs(c))]
    wanted = _spread(pairs(gallery.target), TARGETS)
    return wanted + [p[k % len(p)] for k, p in enumerate(_spread(near, COLUMNS - len(wanted)))]


def shrunk(image: Tensor) -> Tensor:
    """An image (C, H, W), averaged down where a side is longer than `LARGEST`."""
    longest = max(image.shape[1:])
    if longest <= LARGEST:
        return image
    high, wide = (max(1, round(side * LARGEST / longest)) for side in image.shape[1:])
    return adaptive_avg_pool2d(image, (high, wide))


def png(image: Tensor) -> str:
    """Base64 PNG of an image (C, H, W) between 0 and 1; what is not finite is black."""
    from PIL import Image

    pixels = (image.float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    array = pixels.permute(1, 2, 0).numpy()
    held = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of some items, evenly spaced."""
    at = torch.linspace(0, len(items) - 1, min(len(items), most)).round().long().tolist()
    return [items[i] for i in at]
