"""Checks of a denoiser that carries adapters or shows its attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearn.data import Handle
from unlearn.ops.low_rank import KINDS, beside
from unlearn.subject import mode
from unlearn.testing.verdicts import demand

Make = Callable[[], tuple[Any, Handle]]


class Constant(nn.Module):
    """An adapter that is as strong as it is told, whatever the prompt.

    Args:
        maps: Low-rank maps.
        ids: Token ids of its prompts.
        strength: Of the maps.
    """

    prompts: Tensor

    def __init__(self, maps: nn.ModuleDict, ids: Tensor, strength: float) -> None:
        super().__init__()
        self.maps, self.strength = maps, strength
        self.register_buffer("prompts", ids)

    def forward(self, states: Tensor, ids: Tensor, own: Tensor) -> Tensor:
        """The strength for each prompt, with shape (B,)."""
        demand(
            len(ids) == len(states) and own.shape[1:] == states.shape[1:] and len(own) == len(self.prompts),
            f"an adapter is called with states {tuple(states.shape)}, ids {tuple(ids.shape)} and its own states {tuple(own.shape)}; give (B, L, D), a row for each, and (P, L, D)",
        )
        return states.new_full((len(states),), self.strength)


def check_adapts(make: Make) -> None:
    """Adapters act by their strength, add up, and leave the weights, the given subject and its layers as they are."""
    subject, handle = make()
    batch = next(handle.batches(3))
    layers = [m for m in subject.parts()["all"].modules() if isinstance(m, KINDS)]
    maps = beside(subject.module, layers, 2, _rng(0))
    for m in maps.values():
        nn.init.normal_(m.get_parameter("up"), std=0.1, generator=_rng(1))
    off, on = (subject.adapted(Constant(maps, batch.y[:2], s)) for s in (0.0, 1.0))
    halves = subject.adapted(Constant(maps, batch.y[:2], 0.5)).adapted(Constant(maps, batch.y[:1], 0.5))
    with torch.no_grad(), mode(subject.module, train=False):
        plain, still, moved, added = (_paths(s, batch) for s in (subject, off, on, halves))
    demand(
        len(on.adapters()) == 1 and len(halves.adapters()) == 2 and not subject.adapters(),
        "adapted changes the subject that it is called on, or loses an adapter; return one with one more",
    )
    for one, zero, full, two, what in zip(plain, still, moved, added, ("predict", "trajectory"), strict=True):
        demand(torch.equal(one, zero), f"{what} differs under an adapter of strength 0; add s U D x")
        demand(not torch.allclose(one, full), f"an adapter of strength 1 does not change {what}")
        demand(
            torch.allclose(full, two, rtol=1e-3, atol=1e-4),
            f"two adapters of strength 1/2 differ in {what} from one of strength 1; add s U D x for each",
        )
    with torch.no_grad(), mode(subject.module, train=False):
        again = _paths(on.bare(), batch)
    demand(all(map(torch.equal, plain, again)), "bare differs from the subject before it was adapted")
    demand(
        not any(m._forward_hooks for m in subject.module.modules()),
        "adapters leave hooks behind; switch them on for each call",
    )


def check_attends(make: Make) -> None:
    """Attention has its shape and sums to one, carries a gradient, and what shows it changes no prediction."""
    subject, handle = make()
    cond = subject.encode(next(handle.batches(3)))
    z, t = subject.trajectory(cond, 1, 1.0, _rng(0))
    with mode(subject.module, train=False):
        before = subject.predict(z, t, cond)
        seen = subject.attention(z, t, cond)
        after = subject.predict(z, t, cond)
    demand(torch.equal(before, after), "attention changes what the model predicts afterwards")
    demand(
        bool(seen) and all(a.ndim == 4 and len(a) == 3 for a in seen),
        f"attention has the shapes {[tuple(a.shape) for a in seen]} for 3 examples, not (3, heads, queries, L)",
    )
    demand(
        all(torch.allclose(a.sum(-1), torch.ones(())) for a in seen),
        "attention over tokens does not sum to 1",
    )
    total = torch.stack([a[..., 1].sum() for a in seen]).sum()
    if total.requires_grad:
        total.backward()
    demand(
        any(p.grad is not None and bool(p.grad.any()) for p in subject.module.parameters()),
        "attention has no gradient in any weight",
    )


def _paths(subject: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """A prediction, and what a trajectory of two steps comes to."""
    cond = subject.encode(batch)
    z, t = subject.trajectory(cond, 0, 2.0, _rng(0))
    return subject.predict(z, t, cond), subject.trajectory(cond, 2, 2.0, _rng(0))[0]


def _rng(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def check_cross_attends(make: Make) -> None:
    """Projections are maps of the module's own, without bias, from text states; subjects end inside prompts."""
    subject, handle = make()
    for size in (1, 3):
        states, last = subject.words(next(handle.batches(size)))
        demand(
            states.ndim == 3 and len(states) == size,
            f"words returns states of shape {tuple(states.shape)} for {size} prompts, not ({size}, L, D)",
        )
        demand(
            last.shape == (size,) and bool((last >= 0).all()) and bool((last < states.shape[1]).all()),
            f"words returns the positions {last.tolist()} for {size} prompts of {states.shape[1]} tokens",
        )
        blank = subject.blank(size)
        demand(
            blank.shape == states.shape,
            f"blank returns {tuple(blank.shape)}, words {tuple(states.shape)}; the shapes must agree",
        )
    found = subject.projections()
    demand(bool(found) and len(set(found)) == len(found), "projections names no module, or one twice")
    demand(found == subject.projections(), "projections gives two orders in two calls")
    own = {id(p) for p in subject.module.parameters()}
    for m in found:
        shapes = [tuple(p.shape) for p in m.parameters()]
        demand(
            len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == states.shape[2],
            f"a projection has weights of shapes {shapes}, not one of (out, {states.shape[2]}) without bias",
        )
        demand(
            id(m.get_parameter("weight")) in own, "a projection lies outside module, which clones may share"
        )
