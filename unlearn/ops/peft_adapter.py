"""Low-rank maps as an adapter of PEFT beside a network's own weights, which PEFT saves and loads."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from unlearn.patch import plain

Factors = dict[str, tuple[Tensor, Tensor]]
"""A (R, I) and B (O, R) by the name of the linear layer whose weight W acts as W + B A."""


@runtime_checkable
class Adapted(Protocol):
    """A network with an adapter of PEFT: a `peft.PeftModel`."""

    @property
    def peft_config(self) -> Any:
        """The configurations by the adapter's name."""
        ...

    def get_base_model(self) -> nn.Module:
        """The network, its adapted layers in place."""
        ...


def with_adapter(module: nn.Module, factors: Factors) -> nn.Module:
    """The network with an adapter, in place: a `peft.PeftModel`, which writes itself as a folder of PEFT.

    Args:
        module: A network without one.
        factors: All of one rank R.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    wanted = {n: p.requires_grad for n, p in module.named_parameters()}
    rank = len(next(iter(factors.values()))[0])
    named = "|".join(map(re.escape, factors))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=named, init_lora_weights=False)
    with torch.random.fork_rng(), warnings.catch_warnings():  # it draws weights, which are replaced
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what PEFT asks it
        made: nn.Module = get_peft_model(cast(Any, module), config)
    with torch.no_grad():
        found: dict[str, Any] = {plain(n): m for n, m in made.named_modules() if isinstance(m, LoraLayer)}
        for name, layer in found.items():
            a, b = factors[name]
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    for name, p in made.named_parameters():
        p.requires_grad_(wanted.get(plain(name), True))
    return made


def bare(module: nn.Module) -> nn.Module:
    """The network without its adapter, in place; itself where it has none."""
    return cast(Any, module).base_model.unload() if isinstance(module, Adapted) else module


def carried(module: nn.Module) -> Factors:
    """What the adapter of a network adds, its scale within B; nothing where it has none."""
    if not isinstance(module, Adapted):
        return {}
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {plain(n): m for n, m in module.named_modules() if isinstance(m, LoraLayer)}
    return {
        n: (m.lora_A[k].weight.detach(), m.scaling[k] * m.lora_B[k].weight.detach())
        for n, m in layers.items()
        for k in m.active_adapters
    }


def side_by_side(first: Factors, then: Factors) -> Factors:
    """Factors whose products are the sums of two, all of one rank, padded with zeros where only one has a layer."""
    parts = (first, then)
    ranks = [max((len(a) for a, _ in p.values()), default=0) for p in parts]
    found: Factors = {}
    for name in {**first, **then}:
        a, b = next(p[name] for p in parts if name in p)
        both = [
            p.get(name, (a.new_zeros(r, a.shape[1]), b.new_zeros(len(b), r)))
            for p, r in zip(parts, ranks, strict=True)
        ]
        found[name] = torch.cat([x for x, _ in both]), torch.cat([y for _, y in both], 1)
    return found


def factors_of(maps: nn.ModuleDict, scale: float) -> Factors:
    """The factors of low-rank maps of linear layers, their scale within B; see `unlearn.ops.low_rank.beside`."""
    return {
        plain(name.replace("/", ".")): (
            low.get_parameter("down").detach(),
            scale * low.get_parameter("up").detach(),
        )
        for name, low in maps.items()
    }


def restored(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The network with the adapter of which a stored edit holds the factors.

    Args:
        module: As it was before the edit.
        state: Tensors that the edit added or changed.
    """
    ends = {f".lora_{w}.default.weight": w for w in "AB"}
    found: dict[str, dict[str, Tensor]] = {}
    for name, t in state.items():
        for end, which in ends.items():
            if name.endswith(end):
                found.setdefault(plain(name.removesuffix(end)), {})[which] = t
    made = with_adapter(bare(module), {n: (f["A"], f["B"]) for n, f in found.items()})
    made.load_state_dict(dict(state), strict=False)
    return made
