"""Pieces of methods that erase a concept from a denoiser: conditionings, noisy latents, what trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Handle
from unlearn.errors import BadData, Mismatch
from unlearn.runtime import Run
from unlearn.subject import Denoises

Trained = Literal["x", "strict", "u", "layers", "selfattn", "full"]
TRAINED = (
    "cross-attention; strictly its keys and values; all but it, the output and the embedding of time; linear layers and "
    "convolutions outside of it; self-attention; or all"
)
"""What trains, in words and in their order."""

ROWS = 16  # latents that are denoised at once
PARTS = {"x": "cross-attention", "strict": "cross-attention-kv", "selfattn": "self-attention"}  # else all
LEFT = {"u": ("cross-attention", "ends"), "layers": ("cross-attention",)}
LAYERS = (nn.Linear, nn.Conv2d)


def joined(*conds: Any) -> Any:
    """Conditionings one after the other along the batch: tensors, or tuples, lists and dicts of them."""
    return _mapped(lambda *c: torch.cat(c), conds)


def taken(cond: Any, rows: Tensor) -> Any:
    """Some rows of a conditioning, repeated where asked, with shape (B,)."""
    return _mapped(lambda c: c[rows], (cond,))


def count(cond: Any) -> int:
    """Examples in a conditioning."""
    while not isinstance(cond, Tensor):
        cond = next(iter(cond.values() if isinstance(cond, Mapping) else cond))
    return len(cond)


def _mapped(f: Callable[..., Tensor], conds: Sequence[Any]) -> Any:
    first = conds[0]
    if isinstance(first, Tensor):
        return f(*conds)
    if isinstance(first, Mapping):
        return {k: _mapped(f, [c[k] for c in conds]) for k in first}
    if isinstance(first, tuple | list):
        return type(first)([_mapped(f, c) for c in zip(*conds, strict=True)])
    return first


@torch.no_grad()
def encoded(subject: Denoises, prompts: Handle) -> Any:
    """Conditionings of all prompts of a set, in order; the text encoder runs once over it.

    Raises:
        BadData: If there is no prompt.
    """
    if not len(prompts):
        raise BadData("no prompt names the concept; give at least one")
    return joined(*(subject.encode(batch) for batch in prompts.batches(64)))


def chosen(subject: Denoises, train: Trained) -> list[nn.Module]:
    """The modules whose own parameters train, for `unlearn.ops.freezing.only`.

    Raises:
        Mismatch: If the model has no such part, or nothing in it can be trained.
    """
    parts, part, left = subject.parts(), PARTS.get(train, "all"), LEFT.get(train, ())
    found: list[nn.Module] = []
    if parts.keys() >= {part, *left}:
        out = {m for name in left for m in parts[name].modules()}
        found = [m for m in parts[part].modules() if m not in out]
    if train == "layers":
        found = [m for m in found if isinstance(m, LAYERS)]
    if not any(p.is_floating_point() for m in found for p in m.parameters(recurse=False)):
        raise Mismatch(
            f"train={train!r} selects no parameters of this model, whose parts are {', '.join(parts) or 'none'}; choose another"
        )
    return found


def steps_of(subject: Denoises) -> int:
    """Number of steps of a whole trajectory.

    Raises:
        Mismatch: If the subject does not say.
    """
    steps = getattr(subject, "steps", None)
    if not isinstance(steps, int) or steps < 1:
        raise Mismatch(
            f"{type(subject).__name__} has steps = {steps!r}; give it `steps`, the length of its trajectory"
        )
    return steps


def spread(n: int, high: int, rng: Generator) -> Tensor:
    """Whole numbers, each uniform from 0 to high - 1, which together cover that range evenly, in random order.

    Args:
        n: How many.
        high: Number of values.
        rng: Source of order and offset.

    Example:
        >>> spread(6, 3, Generator().manual_seed(0)).bincount()
        tensor([2, 2, 2])
    """
    offset = torch.rand((), generator=rng, device=rng.device)
    even = ((torch.arange(n, device=rng.device) + offset) * (high / n)).long().clamp_max(high - 1)
    return even[torch.randperm(n, generator=rng, device=rng.device)]


def latents(
    subject: Denoises, told: Any, rows: Tensor, until: Tensor, guidance: float, run: Run
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Latents that the current weights denoise for a while; those with equally many steps go together.

    Args:
        subject: The model.
        told: Conditionings of P prompts.
        rows: Prompt of each latent, with shape (N,).
        until: Steps of each latent, with shape (N,).
        guidance: Scale of classifier-free guidance.
        run: Source of the noise, progress.

    Yields:
        Which latents (B,), the latents (B, *), and their times (B,), until all N have come once.
    """
    places = [(u, (until == u).nonzero()[:, 0]) for u in until.unique().tolist()]
    calls = [(u, some) for u, all_ in places for some in all_.split(ROWS)]
    for u, some in run.track(calls, "sample"):
        yield some, *subject.trajectory(taken(told, rows[some]), u, guidance, run.rng)


class Original:
    """Remembers the values of what trains: the original model without a second one.

    Args:
        params: The parameters; their values are copied.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        self.values = [p.detach().clone() for p in self.params]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Puts the remembered values in, and what was there back afterwards; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for p, v in zip(self.params, self.values, strict=True):
            p.data, v.data = v.data, p.data
