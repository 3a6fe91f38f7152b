"""Pictures as they lie on disk, decoded when they are fetched: files, bytes, arrays, PIL images."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unlearn.errors import BadData

BILINEAR = int(Image.Resampling.BILINEAR)


@dataclass(frozen=True, slots=True)
class Frame:
    """The size and colours in which a model wants its images.

    Attributes:
        size: Height and width in pixels; None keeps that of the file.
        channels: 1 for grey, 3 for colour; 0 keeps what the file has.
        shortest: Scales the shorter side to this many pixels and cuts `size` out of the middle; 0 scales both
            sides to `size`.
        resample: Filter of the scaling, as PIL numbers them.
    """

    size: tuple[int, int] | None = None
    channels: int = 0
    shortest: int = 0
    resample: int = BILINEAR

    def apply(self, image: Image.Image) -> Tensor:
        """An image as uint8 with shape (C, H, W)."""
        grey = self.channels == 1 or (self.channels == 0 and image.mode in ("1", "L"))
        image = image.convert("L" if grey else "RGB")
        if self.size is not None:
            image = self._scaled(image, self.size)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()

    def _scaled(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        height, width = size
        if not self.shortest:
            wanted = (width, height)
            return image if image.size == wanted else image.resize(wanted, Image.Resampling(self.resample))
        wide, high = (int(self.shortest * side / min(image.size)) for side in image.size)
        image = image.resize((wide, high), Image.Resampling(self.resample))
        left, top = (wide - width) // 2, (high - height) // 2
        return image.crop((left, top, left + width, top + height))


class Pictures:
    """A source of encoded images, decoded to uint8 on fetch.

    Args:
        read: Returns the pictures at these positions: paths, bytes, `{"bytes", "path"}`, arrays or PIL images.
        y: Class ids, with shape (N,).
        frame: Size and colours.
    """

    def __init__(self, read: Callable[[list[int]], Sequence[Any]], y: Tensor, frame: Frame) -> None:
        self.read, self.y, self.frame = read, y, frame

    def __len__(self) -> int:
        return len(self.y)

    def fetch(self, rows: Tensor) -> Tensor:
        """Images of these rows, uint8 with shape (B, C, H, W).

        Raises:
            BadData: If one cannot be decoded or has another size than the others.
        """
        at = rows.tolist()
        found = [decode(item, self.frame, f"image {i}") for i, item in zip(at, self.read(at), strict=True)]
        for i, image in zip(at, found, strict=True):
            if image.shape != found[0].shape:
                raise BadData(
                    f"images differ in shape: {tuple(found[0].shape)} in row {at[0]}, {tuple(image.shape)} in row {i}; give one size for all with size=PIXELS"
                )
        return torch.stack(found)


class Taken:
    """Reads the pictures of a list.

    Args:
        items: Pictures, or anything indexable that returns them.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __call__(self, at: list[int]) -> list[Any]:
        """The pictures at these positions."""
        return [self.items[i] for i in at]


def decode(item: Any, frame: Frame, name: str = "image") -> Tensor:
    """One picture as uint8 with shape (C, H, W).

    Args:
        item: A path, encoded bytes, `{"bytes", "path"}`, an array (H, W) or (H, W, C), or a PIL image.
        frame: Size and colours.
        name: Word for messages.

    Raises:
        BadData: If it is no image that can be read.
    """
    try:
        if isinstance(item, Image.Image):
            return frame.apply(item)
        if isinstance(item, np.ndarray):
            return frame.apply(Image.fromarray(item))
        if isinstance(item, dict):
            item = item["bytes"] if item.get("bytes") is not None else item["path"]
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else Path(item)) as image:
            return frame.apply(image)
    except (OSError, UnidentifiedImageError, KeyError, TypeError, ValueError, SyntaxError) as err:
        raise BadData(f"{name} cannot be decoded: {err}; replace or drop it") from err
