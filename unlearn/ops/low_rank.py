"""Low-rank maps beside the layers of a model, which add to them only for as long as they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, linear

from unlearn.errors import Mismatch

KINDS = (nn.Linear, nn.Conv2d)
"""Layers that can have one."""


class LowRank(nn.Module):
    """The map U D x beside one layer, zero when it is new.

    D is like the layer without bias, a convolution with its kernel, stride and padding, but has r outputs; U maps
    these to the layer's, a convolution with kernel 1.

    Args:
        layer: One of `KINDS`.
        rank: r.
        rng: Of D, uniform up to one over the root of its fan-in, as in a new layer of torch.

    Raises:
        Mismatch: If the layer is a convolution in groups.
    """

    def __init__(self, layer: nn.Module, rank: int, rng: Generator) -> None:
        super().__init__()
        weight = layer.get_parameter("weight").detach()
        self.how: dict[str, Any] | None = None
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                raise Mismatch(f"no low-rank map goes beside {layer}; choose layers of one group")
            self.how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        down = torch.rand(rank, *weight.shape[1:], generator=rng, device=rng.device)
        limit = weight[0].numel() ** -0.5
        self.down = nn.Parameter((limit * (2 * down - 1)).to(weight))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank, *(1,) * (weight.ndim - 2)))

    def forward(self, x: Tensor) -> Tensor:
        """U D x for what enters the layer."""
        if self.how is None:
            return linear(linear(x, self.down), self.up)
        return conv2d(conv2d(x, self.down, **self.how), self.up)


def beside(module: nn.Module, layers: Iterable[nn.Module], rank: int, rng: Generator) -> nn.ModuleDict:
    """A new low-rank map for each of some layers of a module.

    Args:
        module: Holds the layers.
        layers: Of `KINDS`.
        rank: r of each.
        rng: Source of D.

    Returns:
        The maps by the name of the layer, with slashes for dots.
    """
    names = {m: n.replace(".", "/") for n, m in module.named_modules()}
    return nn.ModuleDict({names[m]: LowRank(m, rank, rng) for m in layers})


@contextmanager
def applied(module: nn.Module, maps: nn.ModuleDict, scale: float | Tensor) -> Iterator[None]:
    """Makes each layer W of a module W x + s U D x, and W x again afterwards.

    Args:
        module: What the maps were made for, or its like.
        maps: See `beside`.
        scale: s, of all examples or of each, with shape (B,). A batch of k B examples is taken for k batches of B.
    """
    layers = [module.get_submodule(name.replace("/", ".")) for name in maps]
    hooks = [m.register_forward_hook(_sum(low, scale)) for m, low in zip(layers, maps.values(), strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def factors(adapters: Iterable[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """What adapters add up to: D (R, I, ...) and U (O, R, ...) by the name of the layer, all ranks side by side.

    Args:
        adapters: Each has `maps`, see `beside`.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for adapter in adapters:
        for name, low in adapter.maps.items():
            own = (low.get_parameter("down").detach(), low.get_parameter("up").detach())
            layer = name.replace("/", ".")
            down, up = zip(*([found[layer]] if layer in found else []), own, strict=True)
            found[layer] = torch.cat(down), torch.cat(up, 1)
    return found


@torch.no_grad()
def fold(module: nn.Module, maps: nn.ModuleDict, scale: float) -> None:
    """Adds s U D of each map to the weight of its layer, for good; see `applied`."""
    for name, low in maps.items():
        weight = module.get_parameter(f"{name.replace('/', '.')}.weight")
        product = low.get_parameter("up").flatten(1) @ low.get_parameter("down").flatten(1)
        weight.add_((scale * product).view_as(weight).to(weight))


@torch.no_grad()
def merge(module: nn.Module, adapters: Iterable[Any]) -> None:
    """Adds U D of each map to the weight of its layer, for good."""
    for name, (down, up) in factors(adapters).items():
        weight = module.get_parameter(f"{name}.weight")
        weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight).to(weight))


def check_fit(module: nn.Module, maps: nn.ModuleDict) -> None:
    """Refuses a module that is not built like the one that the maps were made for.

    Raises:
        Mismatch: Naming the first layer that differs.
    """
    layers: dict[str, nn.Module] = {n.replace(".", "/"): m for n, m in module.named_modules()}
    for name, low in maps.items():
        weight = getattr(layers.get(name), "weight", torch.empty(0))
        up, down = low.get_parameter("up"), low.get_parameter("down")
        if tuple(weight.shape) != (len(up), *down.shape[1:]):
            raise Mismatch(
                f"the adapter of {name} maps {tuple(down.shape[1:])} to {len(up)}, the model's weight there has shape {tuple(weight.shape)}; move adapters between models of one architecture only"
            )


def _sum(low: nn.Module, scale: float | Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        more: Tensor = low(inputs[0])
        if isinstance(scale, Tensor):
            return out + scale.repeat(len(out) // len(scale)).view(-1, *(1,) * (out.ndim - 1)).to(out) * more
        return out + scale * more

    return add
