"""Transformers with joint attention: what they are told of a prompt, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unlearn.ops.clip_text import read

Said = dict[str, Tensor]


class Layout(Protocol):
    """One family."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of a prompt for each encoder, in the order in which they lie in `Batch.y`."""
        ...

    @property
    def patch(self) -> int:
        """Side of the square of latents that is one token of the transformer."""
        ...

    @property
    def distilled(self) -> bool:
        """Whether the transformer is told the scale of guidance, and a guided step takes one row."""
        ...

    def said(self, module: nn.Module, ids: Tensor) -> Said:
        """What the encoders in `module` say of prompts (B, L): `states` (B, L, D) and `pooled` (B, P)."""
        ...

    def velocity(self, net: nn.Module, z: Tensor, t: Tensor, said: Said) -> Tensor:
        """The transformer's velocity for latents z (B, C, H, W) at times t (B,), of the shape of z."""
        ...

    def sigmas(self, steps: int) -> list[float] | None:
        """Noise levels of a trajectory before they are shifted; None for those of the scheduler."""
        ...


@dataclass(frozen=True, slots=True)
class SD3:
    """Stable Diffusion 3: it attends to the tokens of two CLIP encoders, side by side, and then of T5.

    The vectors that both CLIP encoders pool go to every block.

    Attributes:
        lengths: Tokens for the CLIP encoders, and for T5 where there is one.
        t5: A transformers T5EncoderModel, frozen and shared between clones, or None: its states are zero then.
        blanks: How many zeros stand in for it.
        width: Features D of a text state.
        patch: See `Layout`.

    References:
        Esser et al., 2024, Scaling rectified flow transformers for high-resolution image synthesis, arXiv:2403.03206
    """

    lengths: tuple[int, ...]
    t5: nn.Module | None
    blanks: int
    width: int
    patch: int = 2

    @property
    def distilled(self) -> bool:
        """Guided by two rows."""
        return False

    def said(self, module: nn.Module, ids: Tensor) -> Said:
        """See `Layout.said`."""
        first, second, *third = ids.split(self.lengths, 1)
        told = (("text_encoder", first), ("text_encoder_2", second))
        heard = [read(module.get_submodule(name), part) for name, part in told]
        clip = torch.cat([h.before for h in heard], 2)
        clip = pad(clip, (0, self.width - clip.shape[2]))
        long = clip.new_zeros(len(ids), self.blanks, self.width)
        if self.t5 is not None:
            long = states_of(self.t5, third[0]).to(clip)
        return {"states": torch.cat([clip, long], 1), "pooled": torch.cat([h.pooled for h in heard], 1)}

    def velocity(self, net: nn.Module, z: Tensor, t: Tensor, said: Said) -> Tensor:
        """See `Layout.velocity`."""
        states, pooled = said["states"].to(z.dtype), said["pooled"].to(z.dtype)
        out: Tensor = net(z, timestep=t, encoder_hidden_states=states, pooled_projections=pooled).sample
        return out

    def sigmas(self, steps: int) -> list[float] | None:
        """Those of the scheduler."""
        return None


@dataclass(frozen=True, slots=True)
class Flux:
    """FLUX.1: it attends to T5's tokens; the vector that a CLIP encoder pools goes to every block.

    Latents are packed two by two.

    Attributes:
        lengths: Tokens for CLIP and for T5.
        t5: A transformers T5EncoderModel, frozen and shared between clones.
        distilled: Whether the transformer has a guidance embedding.
        own_sigmas: Whether the scheduler's own noise levels are used.
    """

    lengths: tuple[int, ...]
    t5: nn.Module
    distilled: bool
    own_sigmas: bool = False

    @property
    def patch(self) -> int:
        """See `packed`."""
        return 2

    def said(self, module: nn.Module, ids: Tensor) -> Said:
        """See `Layout.said`."""
        short, long = ids.split(self.lengths, 1)
        pooled = read(module.get_submodule("text_encoder"), short).pooled
        return {"states": states_of(self.t5, long).to(pooled), "pooled": pooled}

    def velocity(self, net: nn.Module, z: Tensor, t: Tensor, said: Said) -> Tensor:
        """See `Layout.velocity`."""
        states, pooled = said["states"].to(z.dtype), said["pooled"].to(z.dtype)
        high, wide = (side // 2 for side in z.shape[2:])
        places = torch.zeros(high, wide, 3).to(z)
        places[..., 1] += torch.arange(high).to(z)[:, None]
        places[..., 2] += torch.arange(wide).to(z)
        out = net(
            packed(z), timestep=t.to(z.dtype) / 1000, guidance=said.get("guidance"), encoder_hidden_states=states,
            pooled_projections=pooled, txt_ids=z.new_zeros(states.shape[1], 3), img_ids=places.flatten(0, 1),
        ).sample  # fmt: skip
        return unpacked(out, high, wide)

    def sigmas(self, steps: int) -> list[float] | None:
        """Evenly spaced from 1 to one over the number of steps, as the pipeline has them."""
        return None if self.own_sigmas else torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()


def states_of(t5: nn.Module, ids: Tensor) -> Tensor:
    """T5's last states (B, L, D) of prompts (B, L)."""
    net: Any = t5.to(ids.device)
    states: Tensor = net(ids)[0]
    return states


def packed(z: Tensor) -> Tensor:
    """Latents (B, C, H, W) as tokens (B, H W / 4, 4 C), each a square of four.

    Example:
        >>> z = torch.arange(16).view(1, 1, 4, 4)
        >>> packed(z)[0, 1].tolist()
        [2, 3, 6, 7]
    """
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, high: int, wide: int) -> Tensor:
    """Latents (B, C, 2 high, 2 wide) of which `packed` made these tokens (B, high wide, 4 C).

    Example:
        >>> z = torch.rand(2, 3, 4, 6)
        >>> torch.equal(unpacked(packed(z), 2, 3), z)
        True
    """
    b, _, c = tokens.shape
    squares = tokens.view(b, high, wide, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(b, c // 4, 2 * high, 2 * wide)
