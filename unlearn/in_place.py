"""Erasure from a diffusers pipeline that is at hand, without a bench and without a copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unlearn.concepts import merged
from unlearn.data import Resident, Sealed, Split
from unlearn.errors import BadWeights, Mismatch
from unlearn.method import Method, requires
from unlearn.ops.low_rank import merge
from unlearn.ops.naming import Naming
from unlearn.ops.verbs import like
from unlearn.patch import weights_hash
from unlearn.registry import methods
from unlearn.runtime import Run, seeded_globals
from unlearn.sources import Arrays, Source
from unlearn.subject import Adapts, Subject
from unlearn.subjects._pipelines import Loaded, subject_of
from unlearn.subjects._wrapped import Wrapped

SETS = ("concept", "anchor", "preserve")


def erase_in_place(pipeline: Any, method: Method[Any], asked: Sequence[Sequence[Naming]], seed: int) -> Any:
    """Erases groups of concepts one after another; which weights train is as before when it is done.

    Args:
        pipeline: See `unlearn.api.erase`, or what an erasure before returned.
        method: The method.
        asked: What is to be erased, in order; a group at once.
        seed: Of the method, for each group anew.

    Returns:
        The pipeline, `Wrapped` where something acts beside its weights.

    Raises:
        Mismatch: If the pipeline is of an unknown class, or the method does not fit it.
        BadValue: If its tokenizers make nothing of a concept, or the same as of its anchor.
        BadWeights: If afterwards no weight is another one, or some are not finite; then the pipeline is of no use.
    """
    bare = pipeline.pipeline if isinstance(pipeline, Wrapped) else pipeline
    with _flags(bare):
        loaded = subject_of(bare)
        subject = pipeline.subject if isinstance(pipeline, Wrapped) else loaded.subject
        _check(method, subject)
        device = like(subject.module).device
        for naming in (n for group in asked for n in group):
            loaded.check(naming)
        for group in asked:
            before = weights_hash(subject.module.state_dict())
            with seeded_globals(seed, device), _in_single_precision(subject.module):
                subject = _merged(
                    method.unlearn(subject, _lent(method, loaded, group, device), Run(seed, device))
                )
            _check_edit(method, group, before, subject)
        parts = dict(subject.module.named_children())
        for name in loaded.subject.module:
            setattr(bare, name, parts[name])
        return bare if parts.keys() == loaded.subject.module.keys() else Wrapped(bare, loaded, subject)


def _merged(subject: Any) -> Any:
    """The same model with its adapters in its weights, where they act alike on every prompt."""
    if not isinstance(subject, Adapts) or not subject.adapters():
        return subject
    if not all(getattr(adapter, "constant", False) for adapter in subject.adapters()):
        return subject
    bare = subject.bare()
    merge(bare.module, subject.adapters())
    return bare


def _check_edit(method: Method[Any], group: Sequence[Naming], before: str, done: Subject) -> None:
    names = " and ".join(repr(naming.concept) for naming in group)
    if weights_hash(done.module.state_dict()) == before:
        raise BadWeights(
            f"{method.name} changed no weight, so {names} is not erased; give it more steps or larger ones"
        )
    if not all(p.isfinite().all() for p in done.module.parameters()):
        raise BadWeights(
            f"{method.name} left weights that are not finite, so the pipeline is of no use; load it again and lower the step size"
        )


@contextmanager
def _in_single_precision(module: nn.Module) -> Iterator[None]:
    """Widens what is stored in float16, in which an optimiser's small numbers vanish, for as long as it is edited."""
    narrow = [p for p in module.parameters() if p.dtype == torch.float16]
    for p in narrow:
        p.data = p.data.float()
    try:
        yield
    finally:
        for p in narrow:
            p.data = p.data.half()


def _check(method: Method[Any], subject: Subject) -> None:
    if not _fits(method, subject):
        fitting = [n for n in methods.names() if _fits(methods.get(n)(), subject)]
        raise Mismatch(
            f"{method.name} does not fit a {type(subject).__name__} that is edited by prompts alone; choose one of {', '.join(fitting)}"
        )


def _fits(method: Method[Any], subject: Subject) -> bool:
    """Whether a method edits such a subject and reads nothing but prompts."""
    reads = {name.partition(".")[0] for name in method.reads()}
    return isinstance(subject, requires(type(method))) and reads <= {*SETS}


def _lent(method: Method[Any], loaded: Loaded, group: Sequence[Naming], device: torch.device) -> Split:
    """The sets that a method declared; the rest is sealed."""
    sets: dict[str, Any] = {f.name: Sealed(f.name, method.name) for f in dataclasses.fields(Split)}
    for name, source in merged([_prompts(loaded, naming) for naming in group]).items():
        if name in method.reads():
            sets[name] = Resident(source, device=device)
    return Split(**sets)


def _prompts(loaded: Loaded, naming: Naming) -> dict[str, Source]:
    texts = naming.sets()
    return {n: Arrays(torch.zeros(len(some), 0), loaded.ids(some)) for n, some in texts.items()}


@contextmanager
def _flags(pipeline: Any) -> Iterator[None]:
    """Puts back which parameters of a pipeline ask for a gradient, and the modes of its modules."""
    parts = getattr(pipeline, "components", {}).values()
    modules = [m for part in parts if isinstance(part, nn.Module) for m in part.modules()]
    before = [(m, m.training, [(p, p.requires_grad) for p in m.parameters(recurse=False)]) for m in modules]
    try:
        yield
    finally:
        for m, training, params in before:
            m.training = training
            for p, flag in params:
                p.requires_grad_(flag)
