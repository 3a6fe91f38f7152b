"""Looking into a module while it runs: the order of its layers, its head, what enters the head."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import BadValue, Mismatch
from unlearn.patch import plain
from unlearn.registry import unknown
from unlearn.subject import mode


@contextmanager
def watching(modules: list[nn.Module], see: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Calls `see(module, inputs, output)` after each forward of these modules; leaves no hook behind."""
    hooks = [m.register_forward_hook(see) for m in modules]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()


def layers(module: nn.Module, x: Tensor) -> list[nn.Module]:
    """Modules that own weights, in the order in which a forward pass over `x` enters them."""
    owners = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    seen: dict[nn.Module, None] = {}
    with torch.no_grad(), mode(module, train=False), watching(owners, lambda m, _i, _o: seen.setdefault(m)):
        module(x)
    return list(seen)


def find_head(module: nn.Module, x: Tensor) -> str:
    """Name of the last linear layer that a forward pass over `x` enters; what enters it are the features.

    Raises:
        Mismatch: If the module has no linear layer.
    """
    names: dict[nn.Module, str] = {m: n for n, m in module.named_modules()}
    linear = [m for m in layers(module, x) if isinstance(m, nn.Linear) and not of_adapter(names[m])]
    if not linear:
        raise Mismatch(
            f"{type(module).__name__} has no linear layer to take as its head; name the last layer with head='...'"
        )
    return plain(names[linear[-1]])


def of_adapter(name: str) -> bool:
    """Whether a layer of this name is a factor of an adapter of PEFT."""
    return bool({"lora_A", "lora_B"} & set(name.split(".")))


def blocks(module: nn.Module, x: Tensor, least: int = 5) -> dict[str, nn.Module]:
    """The stages of a network by name, in the order in which a forward pass over `x` leaves them.

    They are the children that hold weights; while there are fewer than `least`, the largest one that has such children
    of its own is replaced by them, and so is a list of modules, which no pass enters.
    """
    found, left = [module], _left(module, x)
    while len(found) < least and (wide := [m for m in found if _parts(m, left)]):
        largest = max(wide, key=lambda m: sum(p.numel() for p in m.parameters()))
        found = [m for m in found if m is not largest] + _parts(largest, left)
    names = {m: n for n, m in module.named_modules()}
    return {names[m]: m for m in sorted(found, key=left.__getitem__)}


def _left(module: nn.Module, x: Tensor) -> dict[nn.Module, int]:
    """Modules that a forward pass over `x` enters, with their place in the order in which it last leaves them."""
    order: dict[nn.Module, int] = {}
    clock = itertools.count()

    def see(m: nn.Module, _inputs: Any, _out: Any) -> None:
        order[m] = next(clock)

    with torch.no_grad(), mode(module, train=False), watching(list(module.modules()), see):
        module(x)
    return order


def _parts(module: nn.Module, left: Mapping[nn.Module, int]) -> list[nn.Module]:
    """Children with weights that a pass enters, and of others, such as lists, their children."""
    own = [m for m in module.children() if next(m.parameters(), None) is not None]
    return [part for m in own for part in ([m] if m in left else _parts(m, left))]


def pooled(out: Any) -> Tensor | None:
    """What a block gives for each example as one vector (B, D): means over places, of images or tokens.

    Args:
        out: With shape (B, D), (B, L, D) or (B, D, *), or a tuple that starts with that.

    Returns:
        The vectors, or None for anything else.
    """
    first = out[0] if isinstance(out, tuple) and out else out
    if not isinstance(first, Tensor) or first.dim() < 2:
        return None
    return first.mean(1) if first.dim() == 3 else first.flatten(2).mean(2) if first.dim() > 3 else first


def named(module: nn.Module, name: str) -> nn.Module:
    """The submodule of this name.

    Raises:
        UnknownName: With the nearest name.
    """
    known: dict[str, nn.Module] = {plain(n): m for n, m in module.named_modules()}
    if name not in known:
        raise unknown("layer", name, [n for n, m in known.items() if n and isinstance(m, nn.Linear)])
    return known[name]


def run_with_input_of(module: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """One forward pass over `x`: what enters `layer`, flattened to (B, D), and the output of `module`.

    Several tensors that enter it, such as those of shortcuts, are put side by side.
    """
    caught: list[Tensor] = []
    with watching([layer], lambda _m, inputs, _o: caught.append(_side_by_side(inputs))):
        out = module(x)
    if not caught:
        raise BadValue(
            "the layer named as head is not entered in a forward pass; name the one that makes the outputs"
        )
    return caught[-1], out


class _ReachedError(Exception):
    """Ends a forward pass at the layer that was asked for."""


def upto(module: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What enters `layer` in a forward pass over `x`, which ends there, with its gradient; see `run_with_input_of`.

    Raises:
        BadValue: If the pass does not enter the layer.
    """
    caught: list[Tensor] = []

    def stop(_m: nn.Module, inputs: tuple[Any, ...]) -> None:
        caught.append(_side_by_side(inputs))
        raise _ReachedError

    hook = layer.register_forward_pre_hook(stop)
    try:
        module(x)
    except _ReachedError:
        return caught[-1]
    finally:
        hook.remove()
    raise BadValue(
        "the layer named as decoder is not entered in a forward pass; name the one that reads the representation"
    )


def made_by(blocks: list[nn.Module], call: Callable[[], Any]) -> list[Tensor]:
    """What each of some blocks makes in a call, which ends when the last of them is through, with its gradient.

    Raises:
        BadValue: If a block is not entered before.
    """
    seen: dict[nn.Module, Tensor] = {}

    def see(m: nn.Module, _inputs: Any, out: Any) -> None:
        seen[m] = out[0] if isinstance(out, tuple) else out
        if m is blocks[-1]:
            raise _ReachedError

    with suppress(_ReachedError), watching(blocks, see):
        call()
    if missing := [type(m).__name__ for m in blocks if m not in seen]:
        raise BadValue(
            f"a forward pass does not enter {missing[0]}, which is named as a block of the encoder"
        )
    return [seen[m] for m in blocks]


def _side_by_side(inputs: tuple[Any, ...]) -> Tensor:
    """The tensors among what enters a layer, as one of shape (B, D)."""
    flat = [t.flatten(1) for t in inputs if isinstance(t, Tensor)]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)
