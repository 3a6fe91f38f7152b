"""Closed-form edits of linear maps W: what they do to some inputs is replaced, and the rest is held.

All maps that read the same inputs are edited by one factor, W = W0 F with F of shape (D, D), so there is one
factorisation for all of them. Everything here is float64 and on the CPU: not every device has float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from unlearn.data import Handle, Split
from unlearn.errors import BadData, BadValue
from unlearn.ops.prompts import trimmed
from unlearn.subject import CrossAttends

Tokens = Literal["last", "all"]
PROMPTS = 64
"""Prompts in one pass of the text encoder."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The sums over input vectors that make an edit; edits are composed by adding them.

    Attributes:
        shift: Σ w (g - c) cᵀ, with shape (D, D).
        gram: Σ w c cᵀ, with shape (D, D).
    """

    shift: Tensor
    gram: Tensor

    def __add__(self, other: Self) -> Terms:
        return Terms(self.shift + other.shift, self.gram + other.gram)


def terms(c: Tensor, goal: Tensor, weight: float) -> Terms:
    """The terms that send each c to where its goal goes; with goal = c they hold c in place.

    Args:
        c: Input vectors, with shape (N, D).
        goal: An input vector for each of them, with shape (N, D).
        weight: w.
    """
    c, goal = exact(c), exact(goal)
    return Terms(weight * (goal - c).T @ c, weight * c.T @ c)


def factor(edit: Terms, ridge: float) -> Tensor:
    """The F with which W0 F minimises Σ w |W c - W0 g|² + λ |W - W0|².

    That is (λ I + Σ w g cᵀ) (λ I + Σ w c cᵀ)⁻¹, computed as its distance from the identity so that an edit that
    asks for nothing changes no bit.

    Args:
        edit: The sums.
        ridge: λ.

    Raises:
        BadValue: If λ is too small beside the sums to be told from zero.

    Example:
        >>> c, g = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> factor(terms(c, g, 3.0), 1.0)
        tensor([[0.2500, 0.0000],
                [0.7500, 1.0000]], dtype=torch.float64)
    """
    eye = torch.eye(len(edit.gram), dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(ridge * eye + edit.gram)
    if int(failed):
        raise BadValue(
            f"a ridge of {ridge:g} is lost beside text states whose squares sum to {float(edit.gram.trace()):g}; raise it"
        )
    return eye + torch.cholesky_solve(edit.shift.T, lower).T


def gram_of(projections: Sequence[nn.Module]) -> Tensor:
    """Σ WᵀW over all maps, with shape (D, D)."""
    return torch.stack([w.T @ w for w in map(_weight, projections)]).sum(0)


def lookalike(gram: Tensor, f: Tensor, c: Tensor, reg: float) -> Tensor:
    """Inputs c' on which the edited maps W = W0 F come closest to what W0 did to c.

    They minimise Σ_l |W_l c' - W0_l c|² + reg |c'|².

    Args:
        gram: Σ_l W0_lᵀ W0_l, with shape (D, D).
        f: F, with shape (D, D).
        c: Input vectors, with shape (N, D).
        reg: Weight of the last term.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> lookalike(eye, eye / 2, torch.tensor([[1.0, 3.0]]), 0.25)
        tensor([[1., 3.]], dtype=torch.float64)
    """
    back = f.T @ gram
    eye = torch.eye(len(gram), dtype=torch.float64)
    found: Tensor = torch.linalg.solve(reg * eye + back @ f, back @ exact(c).T).T
    return found


@torch.no_grad()
def multiply(projections: Sequence[nn.Module], f: Tensor) -> None:
    """Sets each map to W0 F, in place and in its own type."""
    for m in projections:
        m.get_parameter("weight").copy_(_weight(m) @ f)


def states(subject: CrossAttends, prompts: Handle, tokens: Tokens) -> Iterator[Tensor]:
    """Text states of some prompts, batch by batch: (B, D) of their last subject tokens, or (B L, D) of all."""
    for batch in prompts.batches(PROMPTS):
        if tokens == "all":
            yield exact(subject.words(batch)[0].flatten(0, 1))
            continue
        found, last = subject.words(replace(batch, y=trimmed(batch.y)))
        yield exact(found[torch.arange(len(found), device=found.device), last])


def erasure(subject: CrossAttends, data: Split, erase: float, keep: float, tokens: Tokens) -> Terms:
    """The terms that send each of `data.concept` to its anchor and hold `data.preserve`.

    Args:
        subject: Gives the text states.
        data: The three sets of prompts.
        erase: Weight of what is sent.
        keep: Weight of what is held.
        tokens: Which tokens of a prompt count; with `all`, those at equal positions belong together.

    Raises:
        BadData: If there is not one anchor for each concept, or all anchors are equal to their concepts.
    """
    if not len(data.concept) == len(data.anchor) > 0:
        raise BadData(
            f"{len(data.concept)} prompts name what is erased and {len(data.anchor)} what takes its place; give one anchor for each concept"
        )
    pairs = zip(states(subject, data.concept, tokens), states(subject, data.anchor, tokens), strict=True)
    total = _summed([terms(c, g, erase) for c, g in pairs])
    if not bool(total.shift.any()):
        raise BadData(
            "every concept equals its anchor, so there is nothing to erase; give the empty prompt or another concept as anchor"
        )
    if len(data.preserve):
        total += _summed([terms(c, c, keep) for c in states(subject, data.preserve, tokens)])
    return total


def exact(t: Tensor) -> Tensor:
    """A tensor in float64 on the CPU, without its history."""
    return t.detach().cpu().double()


def _weight(m: nn.Module) -> Tensor:
    return exact(m.get_parameter("weight"))


def _summed(parts: list[Terms]) -> Terms:
    return sum(parts[1:], parts[0])
