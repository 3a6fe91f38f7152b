"""Sources: data sets with random access to inputs and all targets at hand, and what happens to inputs.

A source may hold tensors, wrap somebody's indexable, or give another source other targets. Transforms run
on the device, after the gather, with randomness from an explicit generator.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from unlearn.errors import BadData


@runtime_checkable
class Source(Protocol):
    """A data set: random access to inputs, all targets at hand.

    Attributes:
        y: Targets of all examples, with shape (N,) or (N, *).
    """

    y: Tensor

    def __len__(self) -> int:
        """Number of examples N."""
        ...

    def fetch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, uint8 or float, with shape (B, *)."""
        ...


class Arrays:
    """A source of tensors that are at hand.

    Args:
        x: Inputs, uint8 for images, with shape (N, *).
        y: Targets, with shape (N,) or (N, *).

    Raises:
        BadData: If the lengths differ, nothing is there, or a float is NaN or infinite.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y):
            raise BadData(f"inputs and targets differ in length: {len(x)} and {len(y)}")
        for what, t in (("inputs", x), ("targets", y)):
            if t.is_floating_point() and not t.isfinite().all():
                rows = (~t.isfinite()).flatten(1).any(1) if t.ndim > 1 else ~t.isfinite()
                first = rows.nonzero()[0].item()
                raise BadData(
                    f"{what} hold NaN or infinite values in {int(rows.sum())} of {len(t)} rows, the first is row {first}; clean or drop them"
                )
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, with shape (B, *)."""
        return self.x.index_select(0, rows)  # many times as fast as self.x[rows] on the CPU


class Items:
    """A source over any indexable of (input, target) pairs, such as a torch `Dataset`.

    Args:
        items: Anything with `len` and `[i]` that returns a pair; the input is a tensor.
        y: Targets of all examples, with shape (N,) or (N, *); read from the items when not given.
    """

    def __init__(self, items: Any, y: Tensor | None = None) -> None:
        self.items = items
        self.y = torch.as_tensor([items[i][1] for i in range(len(items))]) if y is None else y

    def __len__(self) -> int:
        return len(self.items)

    def fetch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, with shape (B, *)."""
        return torch.stack([torch.as_tensor(self.items[i][0]) for i in rows.tolist()])


class Relabeled:
    """A source with other targets: label noise, poisoning, interclass confusion."""

    def __init__(self, inner: Source, y: Tensor) -> None:
        self.inner, self.y = inner, y

    def __len__(self) -> int:
        return len(self.inner)

    def fetch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, with shape (B, *)."""
        return self.inner.fetch(rows)


class Marked:
    """A source some of whose images carry a mark: a patch in a corner, or a picture that shines through.

    The mark lies on the image as it is stored, so that crops and flips move both together.

    Args:
        inner: Images as uint8, with shape (N, C, H, W).
        y: Targets, with shape (N,).
        marks: What is laid over an image, as uint8 with shape (M, C, H, W).
        strength: How much of the mark is seen at each pixel, 0 to 1, with shape (H, W).
        which: Number of each example's mark, -1 where it has none, with shape (N,).
    """

    def __init__(self, inner: Source, y: Tensor, marks: Tensor, strength: Tensor, which: Tensor) -> None:
        self.inner, self.y = inner, y
        self.marks, self.strength, self.which = marks, strength, which

    def __len__(self) -> int:
        return len(self.inner)

    def fetch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, with shape (B, *)."""
        x, which = self.inner.fetch(rows), self.which[rows]
        at = (which >= 0).nonzero().flatten()
        mixed = torch.lerp(x[at].float(), self.marks[which[at]].float(), self.strength)
        return x.index_copy(0, at, mixed.round().to(x.dtype))


class Transform(Protocol):
    """What happens to inputs on the device, after the gather."""

    def __call__(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Model inputs, with shape (B, *); augmented if and only if a generator is given."""
        ...


@dataclass(frozen=True, slots=True)
class Pixels:
    """Scales uint8 images to 0..1, normalises, and crops and flips where asked, all on the device.

    Attributes:
        mean: Mean of each channel on the 0..1 scale.
        std: Standard deviation of each channel on the 0..1 scale.
        pad: Zero-padding of the random crop, in pixels; 0 for no crop.
        flip: Whether to mirror left and right at random.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False

    def __call__(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Normalised images as float32, with shape (B, C, H, W)."""
        if rng is not None and self.pad:
            x = random_crop(x, self.pad, rng)
        if rng is not None and self.flip:
            x = random_flip(x, rng)
        peak = 255.0 if x.dtype == torch.uint8 else 1.0
        scale, shift = _affine(self.mean, self.std, peak, x.device)
        x = x.to(torch.float32) if x.dtype == torch.uint8 else x.to(torch.float32, copy=True)
        return x.mul_(scale).add_(shift)


@functools.lru_cache(64)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], peak: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand (C, 1, 1) that normalise; kept on the device, since each copy to it would wait for it."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (peak * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.view(-1, 1, 1), shift.view(-1, 1, 1)


def random_crop(x: Tensor, pad: int, rng: Generator) -> Tensor:
    """Shifts each image by up to `pad` pixels and fills with zeros.

    Args:
        x: Images, with shape (B, C, H, W).
        pad: Largest shift, in pixels.
        rng: Source of the shifts, on the device of `x`.
    """
    b, c, h, w = x.shape
    shift = torch.randint(0, 2 * pad + 1, (2, b), generator=rng, device=x.device)
    wide = torch.nn.functional.pad(x, (pad, pad, pad, pad)).flatten()
    high, width = h + 2 * pad, w + 2 * pad
    first = torch.arange(b, device=x.device) * (c * high * width) + shift[0] * width + shift[1]
    plane = torch.arange(c, device=x.device)[:, None] * (high * width)
    row = (plane + torch.arange(h, device=x.device) * width).flatten()
    windows = wide.unfold(0, w, 1)  # a view: every run of w pixels, copied whole by index_select
    return windows.index_select(0, (first[:, None] + row).flatten()).view(b, c, h, w)


def random_flip(x: Tensor, rng: Generator) -> Tensor:
    """Mirrors each image left to right with probability one half.

    Args:
        x: Images, with shape (B, C, H, W).
        rng: Source of the choices, on the device of `x`.
    """
    flip = torch.rand(len(x), generator=rng, device=x.device) < 0.5
    either = torch.cat((x, x.flip(3)))
    return either.index_select(0, torch.arange(len(x), device=x.device) + len(x) * flip)


@dataclass(frozen=True, slots=True)
class AsFloat:
    """The transform of rows and ready-made inputs: integers stay ids, the rest becomes float32."""

    def __call__(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Inputs of the same shape."""
        return x.to(torch.float32) if x.is_floating_point() else x


as_float = AsFloat()


def trusted(device: torch.device, x: Tensor, y: Tensor) -> Arrays:
    """Wraps tensors that were checked when their source was made."""
    arrays = Arrays.__new__(Arrays)
    arrays.x, arrays.y = x.to(device), y.to(device)
    return arrays
