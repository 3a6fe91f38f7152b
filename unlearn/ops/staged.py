"""Sliced ensembles: a network in shards, each learned slice by slice, with what every stage changed kept for deletions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import one_hot

from unlearn.errors import BadValue, Exhausted
from unlearn.ops.hooks import watching
from unlearn.ops.ladder import Adapted, ladder, mapped
from unlearn.ops.orders import Orders, groups, parts_of, places

Vote = Literal["probabilities", "logits", "votes"]
SPENT = "deletions left no stage of this system that may be used; train the missing stages with sisa, or retrain the model without what was deleted"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a system is divided.

    Attributes:
        shards: m, models that share no example.
        orders: B orders of the L slices of a shard.
        layered: Whether each stage trains one group of layers and the classifier, as in S3T; else all, as in SISA.
        rank: Of the low-rank maps in the layers of a transformer.
        vote: What is combined over the shards: the mean of their probabilities or of their logits, or one vote each.

    Raises:
        BadValue: If there is no shard, or the orders are not different orders of the same slices.
    """

    shards: int
    orders: Orders
    layered: bool = False
    rank: int = 16
    vote: Vote = "probabilities"

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise BadValue(f"a system needs at least one shard, got {self.shards}")
        slices = list(range(len(self.orders[0]) if self.orders else 0))
        if (
            not slices
            or len(set(self.orders)) < len(self.orders)
            or any(sorted(o) != slices for o in self.orders)
        ):
            raise BadValue(
                f"orders must be different orders of the same slices, numbered from 0, such as those of unlearn.ops.orders.rotations; got {self.orders}"
            )

    @property
    def slices(self) -> int:
        """L."""
        return len(self.orders[0])

    @property
    def parts(self) -> int:
        """Slices of the whole system, m L."""
        return self.shards * self.slices


class Staged(nn.Module):
    """The networks of all shards, orders and stages, kept as one start and what each stage changed.

    Where it predicts, each shard is the stage that learned most among those that are left of its orders.

    Buffers: `ids` (n,), the examples that it knows, sorted; `alive` (m, B), how many stages each order has;
    `seed`, from which every stage draws, below 0 where nothing was ever trained. `kept` holds the tensors, each with shape (m, B, stages that train it, *).

    Args:
        net: The network that all stages start from.
        plan: How it is divided.
        rng: Of new low-rank maps.
        read: Takes the logits out of the network's output.
    """

    ids: Tensor
    alive: Tensor
    seed: Tensor

    def __init__(self, net: nn.Module, plan: Plan, rng: Generator, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.plan = plan
        self.free, self.head, layers = _divided(net, plan)
        self.net = Adapted(net, layers, plan.rank, rng, read)
        self.kept = nn.Module()
        self.spans: dict[str, list[int]] = {}
        for stage, names in enumerate(self.free):
            for name in _tensors(self.net, names):
                self.spans.setdefault(name, []).append(stage)
        own, params = self.net.state_dict(), dict(self.net.named_parameters())
        for name, span in self.spans.items():
            room = own[name].new_zeros(plan.shards, len(plan.orders), len(span), *own[name].shape)
            if name in params:
                self.kept.register_parameter(_key(name), nn.Parameter(room))
            else:
                self.kept.register_buffer(_key(name), room)
        device = next(net.parameters()).device
        self.register_buffer("ids", torch.zeros(0, dtype=torch.long, device=device))
        self.register_buffer(
            "alive", torch.zeros(plan.shards, len(plan.orders), dtype=torch.long, device=device)
        )
        self.register_buffer("seed", torch.full((), -1, device=device))
        self._served: list[tuple[int, int, int]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, *); those of its start where nothing was ever trained.

        Raises:
            Exhausted: If deletions left no stage that may be used.
        """
        if not self.served and self.seed >= 0:
            raise Exhausted(SPENT)
        states = [self.state(*which) for which in self.served] or [{}]
        return combined(torch.stack([functional_call(self.net, s, (x,)) for s in states]), self.plan.vote)

    def features_and_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the classifiers of all shards side by side, (B, D), and logits (B, C)."""
        caught: list[Tensor] = []
        head = self.net.inner.get_submodule(self.head)
        with watching([head], lambda _m, inputs, _o: caught.append(inputs[0].flatten(1))):
            out = self(x)
        return torch.cat(caught, 1), out

    @property
    def served(self) -> list[tuple[int, int, int]]:
        """Shard, order and number of stages of each network that predicts."""
        if self._served is None:
            sizes = self._sizes().tolist()
            self._served = []
            for shard, left in enumerate(self.alive.tolist()):
                stages = max(left)
                best = left.index(stages)
                learned = self.plan.orders[best][:stages]
                if sum(sizes[shard * self.plan.slices + s] for s in learned):
                    self._served.append((shard, best, stages))
        return self._served

    def members(self, shard: int, slices: tuple[int, ...]) -> Tensor:
        """Ids of the examples in some slices of a shard."""
        parts = torch.tensor([shard * self.plan.slices + s for s in slices], device=self.ids.device)
        return self.ids[torch.isin(parts_of(self.ids, self.plan.parts), parts)]

    def state(self, shard: int, order: int, stages: int) -> dict[str, Tensor]:
        """The tensors of `net` after so many stages of an order of a shard; its own where a name is missing."""
        found = {}
        for name, span in self.spans.items():
            until = sum(s < stages for s in span)
            if until:
                found[name] = self._room(name)[shard, order, until - 1]
        return found

    @torch.no_grad()
    def put(self, shard: int, order: int, stage: int, state: dict[str, Tensor]) -> None:
        """Keeps what a stage trained: tensors of `net` by name."""
        for name in (n for n, span in self.spans.items() if stage in span):
            self._room(name)[shard, order, self.spans[name].index(stage)].copy_(state[name])
        self.alive[shard, order] = stage + 1
        self._served = None

    def begin(self, ids: Tensor) -> None:
        """Forgets all stages and takes these examples instead, with shape (n,)."""
        self.ids = ids.to(self.ids.device).unique()
        self.seed.clamp_(min=0)
        self._limit(torch.zeros_like(self.alive))

    def drop(self, ids: Tensor) -> None:
        """Switches off, and erases, every stage that was trained on an example of the slices that hold these.

        An untrained system has nothing to erase.

        Args:
            ids: Ids of examples, with shape (n,).

        Raises:
            BadValue: If the system never saw one of them, or it was dropped before.
            Exhausted: If all that it knew was dropped before.
        """
        if self.seed < 0:  # untrained
            return
        if not len(self.ids):
            raise Exhausted(SPENT)
        ids = ids.to(self.ids.device)
        strange = ids[~torch.isin(ids, self.ids)]
        if len(strange):
            raise BadValue(
                f"example {int(strange[0])} is not in this system ({len(strange)} such): it was never trained on it, or dropped it before; name examples of its training set"
            )
        place, alive = places(self.plan.orders).to(ids.device), self.alive.clone()
        for part in parts_of(ids, self.plan.parts).unique().tolist():
            shard, slice_ = divmod(part, self.plan.slices)
            alive[shard] = torch.minimum(alive[shard], place[:, slice_])
        self.ids = self.ids[~torch.isin(self.ids, ids)]
        self._limit(alive)

    def chance(self, shard: int, learned: tuple[int, ...]) -> int:
        """The seed of the stage that ends with these slices: the same for orders that begin alike."""
        text = f"{int(self.seed)} {shard} {learned}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

    @torch.no_grad()
    def _limit(self, alive: Tensor) -> None:
        """Erases every stage beyond `alive`, with shape (m, B)."""
        self.alive.copy_(alive)
        for name, span in self.spans.items():
            room = self._room(name)
            gone = torch.tensor(span, device=alive.device) >= alive[..., None]
            room.masked_fill_(gone.view(*gone.shape, *(1,) * (room.ndim - 3)), 0)
        self._served = None

    def _sizes(self) -> Tensor:
        return torch.bincount(parts_of(self.ids, self.plan.parts), minlength=self.plan.parts)

    def _room(self, name: str) -> Tensor:
        found: Tensor = getattr(self.kept, _key(name))
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}ids" in state_dict:  # as many as the one that was saved had
            self.ids = self.ids.new_empty(state_dict[f"{prefix}ids"].shape)
        self._served = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def combined(logits: Tensor, vote: Vote) -> Tensor:
    """One prediction of m networks, as logits (B, C).

    Args:
        logits: Of each, with shape (m, B, C).
        vote: `probabilities` gives the log of their mean, `logits` the mean of the logits. `votes` gives the log of the
            shares of votes, one from each network for its most likely class, and one more that goes by the mean
            probabilities: it decides ties and never more.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
        >>> [combined(logits, v).argmax(1).item() for v in ("logits", "votes")]
        [0, 1]
    """
    if vote == "logits":
        return logits.mean(0)
    share = logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
    if vote == "probabilities":
        return share
    ballots = one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    return ((ballots + share.exp()) / (len(logits) + 1)).clamp_min(torch.finfo(share.dtype).tiny).log()


def _divided(net: nn.Module, plan: Plan) -> tuple[list[list[str]], str, list[nn.Module]]:
    """Names of the modules of `Adapted` that each stage trains, the classifier, and layers that get low-rank maps."""
    steps, names = ladder(net), {m: n for n, m in net.named_modules()}
    if not plan.layered:
        return [[f"inner.{n}" if n else "inner" for n in names.values()]] * plan.slices, steps.head, []
    rungs = {rung[0]: rung for rung in steps.rungs}
    free: list[list[str]] = []
    chosen: list[nn.Module] = []
    for group in groups(list(rungs), plan.slices):
        mine = [f"inner.{steps.head}"]
        for rung in (rungs[name] for name in group):
            if steps.stacked and plan.rank:
                low = mapped(net, rung)
                chosen += low
                mine += [f"maps.{names[m].replace('.', '/')}" for m in low]
            else:
                inside = [
                    f"{r}.{n}" if n else r for r in rung for n, _ in net.get_submodule(r).named_modules()
                ]
                mine += [f"inner.{n}" for n in inside]
        free.append(mine)
    return free, steps.head, chosen


def _tensors(net: nn.Module, modules: list[str]) -> list[str]:
    """Names in the state of `net` that belong to some modules themselves, by exact name."""
    owners = set(modules)
    return [n for n in net.state_dict() if n.rpartition(".")[0] in owners]


def _key(name: str) -> str:
    return name.replace(".", "-")
