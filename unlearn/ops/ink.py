"""Real digit scans drawn in five inks and papers, with captions: the data of the embedded pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from unlearn.ops.wording import reworded
from unlearn.scenario import stratified

OBJECTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLES = ("red ink", "blue ink", "chalk", "pencil", "neon")
SIDE = 16
BOTH = ("{a} in {s}", "{o} in {s}", "a drawing of {a} in {s}", "the digit {o} in {s}")
OBJECT = ("{a}", "the digit {o}")
STYLE = ("a digit in {s}", "{s}")
OTHERWISE = (*BOTH[1:], "{o} {s}", "{s} {o}", "a {s} drawing of {a}")


def caption(template: str, obj: str = "", style: str = "") -> str:
    """A template filled in; `{a}` is the object with its article.

    Example:
        >>> caption("a drawing of {a} in {s}", "eight", "chalk")
        'a drawing of an eight in chalk'
    """
    return template.format(o=obj, a=f"an {obj}" if obj[:1] == "e" else f"a {obj}", s=style)


def prompts(obj: str = "", style: str = "") -> list[str]:
    """Every caption of an object, of a style, or of both."""
    templates = BOTH if obj and style else OBJECT if obj else STYLE
    return [caption(t, obj, style) for t in templates]


def paraphrases(obj: str, style: str, concept: str) -> list[str]:
    """Other ways to ask for an object in a style, where either is the concept, than the caption that is scored."""
    return [caption(t, obj, style) for t in OTHERWISE] + reworded(caption(BOTH[0], obj, style), concept)


def render(scans: Tensor, styles: Tensor, rng: Generator) -> Tensor:
    """Draws scans in colour.

    Args:
        scans: Strength of the stroke, 0 to 1, with shape (N, 8, 8).
        styles: Positions in `STYLES`, with shape (N,).
        rng: Of the grain of paper and ink.

    Returns:
        Images from 0 to 1, with shape (N, 3, 16, 16).
    """
    stroke = interpolate(scans[:, None].float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    stroke = (1.3 * stroke - 0.1).clamp(0, 1)
    grain = torch.rand(len(scans), 1, SIDE, SIDE, generator=rng)
    drawn = torch.stack([draw(stroke, grain) for draw in DRAWN])
    return drawn[styles, torch.arange(len(scans))].clamp(0, 1)


def _color(*rgb: float) -> Tensor:
    return torch.tensor(rgb)[:, None, None]


def _red(stroke: Tensor, grain: Tensor) -> Tensor:
    paper = _color(0.98, 0.94, 0.84) - 0.05 * grain
    return paper + stroke * (_color(0.78, 0.08, 0.12) - paper)


def _blue(stroke: Tensor, grain: Tensor) -> Tensor:
    lines = (torch.arange(SIDE) % 5 == 4).float()[:, None]
    paper = _color(0.97, 0.97, 0.99) - lines * _color(0.35, 0.2, 0.05) - 0.03 * grain
    return paper + stroke * (_color(0.08, 0.12, 0.6) - paper)


def _chalk(stroke: Tensor, grain: Tensor) -> Tensor:
    board = _color(0.1, 0.27, 0.2) + 0.05 * grain
    return board + stroke * (0.7 + 0.3 * grain) * (_color(0.97, 0.96, 0.9) - board)


def _pencil(stroke: Tensor, grain: Tensor) -> Tensor:
    paper = _color(0.86, 0.86, 0.85) - 0.04 * grain
    return paper + stroke * (0.75 + 0.25 * grain) * (_color(0.3, 0.3, 0.32) - paper)


def _neon(stroke: Tensor, grain: Tensor) -> Tensor:
    glow = avg_pool2d(stroke, 3, 1, 1)
    night = _color(0.03, 0.02, 0.08) + 0.03 * grain
    return night + glow * _color(0.45, 0.0, 0.55) + stroke * _color(0.5, 0.85, 0.35)


DRAWN: Sequence[Callable[[Tensor, Tensor], Tensor]] = (_red, _blue, _chalk, _pencil, _neon)


def scans() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Strokes (N, 8, 8), 0 to 1, and digits (N,) of scikit-learn's scans: seven tenths, and three tenths held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.tensor(found.images / 16).float(), torch.tensor(found.target)
    train, held = stratified(y, (0.7, 0.3), torch.Generator().manual_seed(0))
    return (x[train], y[train]), (x[held], y[held])


def judge(classes: int) -> nn.Sequential:
    """An untrained judge: from images (B, 3, H, W) between -1 and 1 to logits (B, classes + 1)."""

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

    return nn.Sequential(
        *block(3, 24), *block(24, 24), nn.MaxPool2d(2), *block(24, 48), *block(48, 48), nn.MaxPool2d(2),
        *block(48, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes + 1),
    )  # fmt: skip


def layers(net: nn.Sequential, x: Tensor) -> tuple[Tensor, ...]:
    """What each convolution of a judge makes of images x (B, 3, H, W) between -1 and 1: maps (B, C, h, w)."""
    maps = []
    for module in net:
        x = module(x)
        if isinstance(module, nn.ReLU):
            maps.append(x)
    return tuple(maps)
