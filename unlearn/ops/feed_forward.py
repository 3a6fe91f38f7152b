"""Which linear layers of a network low-rank maps go beside: the feed-forward ones of transformer blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from unlearn.errors import Mismatch
from unlearn.ops.hooks import of_adapter
from unlearn.registry import unknown

Linears = dict[str, nn.Linear]


def chosen(module: nn.Module, names: str = "") -> list[Linears]:
    """Linear layers by name, block by block.

    Without names these are the feed-forward layers, see `feed_forward`; where a network has none, as one that is no
    transformer, every linear layer is a block of its own.

    Args:
        module: The network.
        names: Names of layers, or their last parts, joined by commas, such as `fc1,fc2`. Layers below one number, as in
            `blocks.3.fc1`, make a block.

    Raises:
        Mismatch: If the network has no linear layer.
        UnknownName: If no linear layer has a name.
    """
    every = linears(module)
    if not every:
        raise Mismatch(
            f"{type(module).__name__} has no linear layer that a low-rank map could go beside; choose a method that moves all weights, such as salun or finetune"
        )
    words = [w.strip() for w in names.split(",") if w.strip()]
    if not words:
        return feed_forward(module) or [{n: m} for n, m in every.items()]
    found: dict[str, Linears] = {}
    for word in words:
        fits = {n: m for n, m in every.items() if n == word or n.endswith(f".{word}")}
        if not fits:
            raise unknown("linear layer", word, every)
        for n, m in fits.items():
            found.setdefault(_block(n), {})[n] = m
    return list(found.values())


def feed_forward(module: nn.Module) -> list[Linears]:
    """The feed-forward layers of each transformer block, found by their shapes.

    In the smallest module that has both, they lead from D to H > D features and, later, back from H to D; of several such
    H the largest counts. So gated forms are found, and no projection of attention is.

    Example:
        >>> mlp = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))
        >>> net = nn.ModuleDict({"attention": nn.Linear(4, 12), "out": nn.Linear(4, 4), "mlp": mlp})
        >>> [list(block) for block in feed_forward(net)]
        [['mlp.0', 'mlp.2']]
    """
    return _within("", module)


def linears(module: nn.Module, prefix: str = "") -> Linears:
    """Every linear layer by name, but those whose weights attention reads past them, and those of adapters."""
    return {
        n: m
        for n, m in module.named_modules(prefix=prefix)
        if isinstance(m, nn.Linear)
        and not isinstance(m, NonDynamicallyQuantizableLinear)
        and not of_adapter(n)
    }


def _within(name: str, module: nn.Module) -> list[Linears]:
    children = [(f"{name}.{n}" if name else n, m) for n, m in module.named_children()]
    inner = [block for n, m in children for block in _within(n, m)]
    return inner or _pair(linears(module, name))


def _pair(found: Mapping[str, nn.Linear]) -> list[Linears]:
    """The layers that lead up to the largest width from which a later one leads down again; none if there are none."""
    every = list(found.values())
    ways = [
        (up.out_features, up.in_features)
        for k, up in enumerate(every)
        for down in every[k + 1 :]
        if up.out_features > up.in_features
        and (up.in_features, up.out_features) == (down.out_features, down.in_features)
    ]
    if not ways:
        return []
    widest = set(max(ways))
    return [{n: m for n, m in found.items() if {m.in_features, m.out_features} == widest}]


def _block(name: str) -> str:
    """The part of a name up to its last number, or all of it where there is none."""
    parts = name.split(".")
    last = max((k for k, part in enumerate(parts) if part.isdecimal()), default=len(parts) - 1)
    return ".".join(parts[: last + 1])
