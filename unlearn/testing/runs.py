"""One unlearning call under observation: everything that it touched is written down."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from unlearn.data import Counted, Handle, Peers, Sealed, Split, Statistics
from unlearn.method import Method
from unlearn.ops.gaussians import Lender
from unlearn.runtime import Run, seeded_globals
from unlearn.subject import Embeds, Subject
from unlearn.testing.tiny import CPU, Specimen, same, specimen, tensors
from unlearn.testing.tiny_peers import peers
from unlearn.testing.verdicts import global_state

LENT = tuple(f.name for f in fields(Split))
"""Names of what a method may be lent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call left behind.

    Attributes:
        given: The private clone that the method got.
        done: What it returned.
        original: Tensors of the original afterwards.
        original_before: The same, before.
        clone_before: Tensors of the clone before the call.
        data_kept: Whether inputs and targets are what they were, by set.
        read: Examples read, by set.
        globals_kept: Whether the global generators are where they were.
        shell_before: Flags and hooks of the clone's modules and parameters before the call, see `shell`.
    """

    given: Subject
    done: Any
    original: Mapping[str, Tensor]
    original_before: Mapping[str, Tensor]
    clone_before: Mapping[str, Tensor]
    data_kept: Mapping[str, bool]
    read: Mapping[str, int]
    globals_kept: bool
    shell_before: Mapping[str, Any]

    @property
    def subject(self) -> Subject:
        """What came back, or the clone where that is no subject."""
        return self.done if isinstance(self.done, Subject) else self.given

    @property
    def module(self) -> nn.Module:
        """The module of what came back."""
        return self.subject.module


def call(method: Method[Any], tiny: Specimen, seed: int = 0, *, sealed: bool = False) -> Outcome:
    """Unlearns on a copy of a specimen and writes down what was touched.

    Args:
        method: The method.
        tiny: Subject and data; a copy of it is lent.
        seed: Of the run.
        sealed: Whether what is not declared is sealed, as the bench does it; else it is lent and counted.
    """
    tiny = tiny.copy()
    before, data = tensors(tiny.subject), _contents(tiny)
    clone = tiny.subject.clone()
    _mix_flags(clone.module)
    clone_before, shell_before = tensors(clone), shell(clone.module)
    split, counts = lend(method, tiny, sealed=sealed)
    with seeded_globals(1234, CPU):
        generators = global_state()
        done = method.unlearn(clone, split, Run(seed, CPU))
        kept = global_state() == generators
    after = _contents(tiny)
    return Outcome(
        clone, done, tensors(tiny.subject), before, clone_before,
        {n: same(data[n], after[n]) for n in data}, {n: c.read for n, c in counts.items()}, kept, shell_before,
    )  # fmt: skip


@functools.lru_cache(maxsize=32)
def outcome(
    cls: type[Method[Any]],
    name: str,
    seed: int = 0,
    knobs: tuple[tuple[str, Any], ...] = (),
    how: str = "",
) -> Outcome:
    """`call` with the defaults and some knobs on top, remembered: the checks of a cell share it.

    Args:
        cls: The method's class.
        name: Of the tiny subject.
        seed: Of the run.
        knobs: Fields that differ from their defaults.
        how: `sealed` as the bench lends, `streamed` for `Stream` handles, `small` for less data, `again` for the
            same once more.
    """
    tiny = specimen(name)
    if how == "streamed":
        tiny = tiny.streamed()
    if how == "small":
        tiny = tiny.small()
    return call(cls(**dict(knobs)), tiny, seed, sealed=how == "sealed")


def lend(method: Method[Any], tiny: Specimen, *, sealed: bool) -> tuple[Split, dict[str, Counted | Peers]]:
    """The sets of a specimen, each counted; what the method does not declare is sealed where asked.

    Returns:
        The split, and the counters by set; statistics and models count the examples they are made from.
    """
    reads = method.reads()
    lent: dict[str, Any] = {}
    counts: dict[str, Counted | Peers] = {}
    for name in LENT:
        if sealed and name not in reads and f"{name}.x" not in reads:
            lent[name] = Sealed(name, method.title())
            continue
        if name == "pool" and method.wants()[1] and tiny.name:
            lent[name] = counts[name] = peers(tiny.name, *method.wants())
            continue
        if name != "statistics" and name not in tiny.sets:
            lent[name] = Sealed(name, method.title())
            continue
        blind = method.title() if sealed and name not in reads else ""
        inner = cast(Handle, tiny.sets["retain" if name == "statistics" else name])
        counts[name] = lent[name] = counted = Counted(inner, unlabeled=blind, name=name)
        if name == "statistics":
            lent[name] = Lender(cast(Embeds, tiny.subject), counted)
    return Split(**{**lent, "statistics": cast(Statistics, lent["statistics"])}), counts


def shell(module: nn.Module) -> dict[str, Any]:
    """What surrounds the weights: training flags, hooks, and which parameters want a gradient or have one."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
             "_state_dict_hooks", "_load_state_dict_pre_hooks")  # fmt: skip
    return {
        "training": {n: m.training for n, m in module.named_modules()},
        "hooks": {n: sum(len(vars(m)[h]) for h in hooks if h in vars(m)) for n, m in module.named_modules()},
        "tensor hooks": {n: len(p._backward_hooks or ()) for n, p in module.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in module.named_parameters()},
        "gradients": {n: p.grad is None for n, p in module.named_parameters()},
    }


def _mix_flags(module: nn.Module) -> None:
    """Evaluation mode, except for the last leaf: a method that sets either mode for good is seen."""
    module.eval()
    leaf = [m for m in module.modules() if not list(m.children())][-1]
    leaf.train()


def _contents(tiny: Specimen) -> dict[str, dict[str, Tensor]]:
    """Copies of inputs, targets and rows of each set."""
    found = {}
    for name, handle in tiny.sets.items():
        whole = handle.source.fetch(torch.arange(len(handle.source)))
        found[name] = {"x": whole.clone(), "y": handle.source.y.clone(), "rows": handle.rows.clone()}
    return found
