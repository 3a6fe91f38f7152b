"""Several networks of one architecture as one: their channels side by side, their layers in groups.

Model k of M has channels k C to (k + 1) C - 1 of every activation, so convolutions have M times the groups, batch norm
has M times the channels and is exact, and linear layers are M small ones. What has no weights and looks at each channel
by itself stays as it is; a layer without weights that does not may say by `grouped(m)` what does it for m models.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlearn.errors import Mismatch

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class GroupedLinear(nn.Module):
    """M linear layers, each on features of its own: (B, M I) to (B, M O).

    Attributes:
        weight: With shape (M, O, I).
        bias: With shape (M, 1, O), or None.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([m.weight.detach() for m in layers]))
        biased = layers[0].bias is not None
        self.bias = nn.Parameter(torch.stack([m.bias.detach() for m in layers])[:, None]) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        parts = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        out = parts @ self.weight.mT if self.bias is None else torch.baddbmm(self.bias, parts, self.weight.mT)
        return out.transpose(0, 1).flatten(1)


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that does what several of one architecture do, each on its own part of the channels.

    Args:
        modules: The networks, which stay as they are.

    Raises:
        Mismatch: If a layer with weights is of a kind that cannot be put side by side.
    """
    found = copy.deepcopy(modules[0])
    for name, layer in list(found.named_modules()):
        each = [m.get_submodule(name) for m in modules]
        made = _together(each)
        if made is None:
            continue
        if not name:
            return made
        parent, _, own = name.rpartition(".")
        setattr(found.get_submodule(parent), own, made.train(layer.training))
    return found


def unstack(stacked: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Puts weights and buffers of a stack back into its networks, in place."""
    states = [m.state_dict() for m in modules]
    m = len(modules)
    for name, value in stacked.state_dict().items():
        for k, state in enumerate(states):
            own = state[name]
            part = value if value.ndim == 0 else value.reshape(m, *own.shape)[k]
            own.copy_(part)


def _together(each: Sequence[nn.Module]) -> nn.Module | None:
    """The layer that does what these do, or None for a container or what needs no other one."""
    first, m = each[0], len(each)
    if isinstance(first, nn.Linear):
        return GroupedLinear([e for e in each if isinstance(e, nn.Linear)])
    if (grouped := getattr(first, "grouped", None)) is not None:
        made: nn.Module = grouped(m)
        return made
    if isinstance(first, (*CONVOLUTIONS, *NORMS)):
        made = _wider(first, m)
        tensors = [e.state_dict() for e in each]
        for name, value in made.state_dict().items():
            value.copy_(value if value.ndim == 0 else torch.cat([t[name] for t in tensors]))
        return made
    own = next(first.parameters(recurse=False), None), next(first.buffers(recurse=False), None)
    if own != (None, None) or isinstance(first, nn.Dropout):
        raise Mismatch(
            f"a {type(first).__name__} cannot be trained side by side with others; train them one by one"
        )
    return None


def _wider(layer: nn.Module, m: int) -> nn.Module:
    """A layer like this one with m times the channels, in m times the groups."""
    made = copy.deepcopy(layer)
    for name in ("in_channels", "out_channels", "groups", "num_features"):
        if hasattr(made, name):
            setattr(made, name, getattr(made, name) * m)
    for name, p in list(made.named_parameters(recurse=False)):
        setattr(made, name, nn.Parameter(p.detach().repeat(m, *[1] * (p.ndim - 1)), p.requires_grad))
    for name, b in list(made.named_buffers(recurse=False)):
        if b.ndim:
            setattr(made, name, b.repeat(m, *[1] * (b.ndim - 1)))
    return made
