"""The layers of a network from the bottom to the top, as S3T counts them, with low-rank maps beside pretrained ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearn.errors import Mismatch
from unlearn.ops.low_rank import LowRank, applied

QUERIES_AND_VALUES = frozenset({"query", "value", "q_proj", "v_proj", "to_q", "to_v"})
FUSED = "qkv"
"""Name of a linear layer whose outputs are queries, keys and values, a third each."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A network as a pile of layers under a classifier.

    Attributes:
        rungs: Names of the modules of each layer, from the bottom to the top.
        head: Name of the classifier, its last linear layer.
        stacked: Whether the layers are those of a list, as in transformers.
    """

    rungs: list[list[str]]
    head: str
    stacked: bool


def ladder(net: nn.Module) -> Ladder:
    """The layers of a network in the order in which it names them, which is taken for that of a forward pass.

    The entries of its largest list of layers of one class; where there is none, its parts that hold weights, with
    sequences taken apart and each norm counted with what comes before it.

    Raises:
        Mismatch: If there is no linear layer to be the classifier.
    """
    names: dict[nn.Module, str] = {m: n for n, m in net.named_modules()}
    heads = [n for m, n in names.items() if isinstance(m, nn.Linear)]
    if not heads:
        raise Mismatch(f"{type(net).__name__} has no linear layer to take as its classifier; stages need one")
    lists = [m for m in names if isinstance(m, nn.ModuleList) and len({type(e) for e in m}) == 1 < len(m)]
    if lists:
        chosen = max(lists, key=_weights)
        outside = [n for n in heads if not n.startswith(f"{names[chosen]}.")]
        return Ladder([[names[m]] for m in chosen], (outside or heads)[-1], True)
    parts = _parts(net)
    while len(parts) == 1 and any(parts[0].children()):
        parts = _parts(parts[0])
    rungs: list[list[str]] = []
    for m in parts:
        if names[m] == heads[-1]:
            continue
        if rungs and all(p.ndim < 2 for p in m.parameters()):
            rungs[-1].append(names[m])
        else:
            rungs.append([names[m]])
    return Ladder(rungs, heads[-1], False)


def _parts(module: nn.Module) -> list[nn.Module]:
    """Children with weights, sequences taken apart."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.Sequential):
            found += _parts(child)
        elif _weights(child):
            found.append(child)
    return found


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def mapped(net: nn.Module, rung: Sequence[str]) -> Sequence[nn.Module]:
    """Layers of a rung that get a low-rank map: its queries and values, or its linear layers where it names none."""
    inside = {n: m for r in rung for n, m in net.get_submodule(r).named_modules() if isinstance(m, nn.Linear)}
    chosen = [m for n, m in inside.items() if n.rpartition(".")[2] in QUERIES_AND_VALUES or _fused(n, m)]
    return chosen or list(inside.values())


def _fused(name: str, layer: nn.Module) -> bool:
    """Whether a layer makes queries, keys and values at once, each as wide as what enters."""
    linear = isinstance(layer, nn.Linear) and layer.out_features == 3 * layer.in_features
    return linear and name.rpartition(".")[2] == FUSED


class QueriesAndValues(nn.Module):
    """Two low-rank maps beside a layer of queries, keys and values (3 D, D): one for the queries, one for the values.

    Parameters: `down` (2, r, D) and `up` (2, D, r), first those of the queries; zero when it is new.

    Args:
        layer: The layer.
        rank: r.
        rng: Of `down`, as in `LowRank`.
    """

    def __init__(self, layer: nn.Module, rank: int, rng: Generator) -> None:
        super().__init__()
        both = [LowRank(layer, rank, rng) for _ in range(2)]
        third = len(both[0].up) // 3
        self.down = nn.Parameter(torch.stack([m.down.detach() for m in both]))
        self.up = nn.Parameter(torch.stack([m.up.detach()[:third] for m in both]))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to queries, keys and values, (*, 3 D), for what enters the layer, (*, D)."""
        q, v = (x @ down.T @ up.T for down, up in zip(self.down, self.up, strict=True))
        return torch.cat([q, torch.zeros_like(q), v], -1)


class Adapted(nn.Module):
    """A network with low-rank maps beside some layers: W x becomes W x + √r U D x.

    That is a LoRA with α = r and the rank-stabilised scale α / √r; new maps add nothing. A layer that makes queries, keys
    and values at once gets two, for its queries and its values, and its keys stay as they are.

    Args:
        inner: The network.
        layers: Those that get a map; none leaves the network as it is.
        rank: r.
        rng: Of the maps' first weights.
        read: Takes the logits out of the network's output.

    References:
        Hu et al., 2021, LoRA: low-rank adaptation of large language models, arXiv:2106.09685
        Kalajdzievski, 2023, A rank stabilization scaling factor for fine-tuning with LoRA, arXiv:2312.03732
    """

    def __init__(
        self,
        inner: nn.Module,
        layers: Sequence[nn.Module],
        rank: int,
        rng: Generator,
        read: Callable[[Any], Tensor],
    ) -> None:
        super().__init__()
        self.inner, self.read, self.scale = inner, read, rank**0.5
        names = {m: n for n, m in inner.named_modules()}
        kinds = [(names[m], m, QueriesAndValues if _fused(names[m], m) else LowRank) for m in layers]
        self.maps = nn.ModuleDict({n.replace(".", "/"): kind(m, rank, rng) for n, m, kind in kinds})

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, *)."""
        with applied(self.inner, self.maps, self.scale):
            return self.read(self.inner(x))
