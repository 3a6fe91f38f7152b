"""Verbs that many subjects spell the same way: being drawn anew, being trained, drawing noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Handle
from unlearn.errors import Mismatch
from unlearn.ops.recipe import Recipe
from unlearn.ops.steps import reinitialised
from unlearn.runtime import Run


def untrained(module: nn.Module, build: Callable[[], nn.Module] | None, rng: Generator) -> nn.Module:
    """A new module of the same architecture, device and type with newly drawn weights.

    Args:
        module: The trained one, which stays as it is.
        build: Returns an untrained one; where it is None every layer of a copy is reset.
        rng: Source of the weights; the global generator stays as it was.
    """
    if build is None:
        return reinitialised(copy.deepcopy(module), rng)
    seed = int(torch.randint(0, 2**31 - 1, (1,), generator=rng, device=rng.device).item())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().to(like(module))


def fit(subject: Any, recipe: Recipe | None, handle: Handle, run: Run) -> None:
    """Trains a subject in place by its recipe.

    Raises:
        Mismatch: If there is none.
    """
    if recipe is None:
        raise Mismatch(
            "this model carries no training recipe, so nothing can be retrained; give `fit` in the file that builds it"
        )
    recipe.fit(subject, handle, run)


def like(module: nn.Module) -> Tensor:
    """A tensor on the device and of the floating type of a module, for `x.to(like(module))`."""
    return next(p for p in module.parameters() if p.is_floating_point()).detach()


def normal(of: Tensor, rng: Generator) -> Tensor:
    """Standard normal noise with the shape, device and type of a tensor."""
    return torch.randn(of.shape, generator=rng, device=rng.device).to(of)


def whole(high: int, n: int, rng: Generator, device: torch.device) -> Tensor:
    """Whole numbers drawn uniformly from 0 to high - 1, with shape (n,)."""
    return torch.randint(0, high, (n,), generator=rng, device=rng.device).to(device)


def of_example(index: Tensor, draw: Callable[[Generator], Tensor]) -> Tensor:
    """Draws of each example by itself, seeded by its id, so that models are compared on the same draw.

    Args:
        index: Ids, with shape (B,).
        draw: One draw from a generator on the CPU.

    Returns:
        The draws on the device of `index`, with shape (B, *).
    """
    return torch.stack([draw(torch.Generator().manual_seed(i)) for i in index.tolist()]).to(index.device)
