"""Patches on models on disk: apply, revert, stack, export."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unlearn.errors import BadValue, BadWeights
from unlearn.ops.adapters import FILE, factorised, lora_state
from unlearn.ops.checkpoints import Checkpoint, fresh, open_checkpoint
from unlearn.patch import LORA_A, VERSION, Base, Patch, check_bases, read_patch, same_shape, save_tensors

PATCH = "patch.safetensors"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        out: The model, adapter or patch.
        tensors: How many weights are not those of the base.
        rounded: In how many of them new values were rounded to the half precision that the model is stored in.
        error: The largest absolute error of that.
        left_out: Files of the model that were not taken over, because they hold unedited weights.
        undo: The patch that leads back, if one was asked for.
    """

    out: Path
    tensors: int
    rounded: int = 0
    error: float = 0.0
    left_out: tuple[str, ...] = ()
    undo: Path | None = None


def inspect(path: Path) -> dict[str, Any]:
    """What a patch changes, as JSON: tensors, weights, share of each component, size, base and notes.

    Raises:
        BadWeights: If it cannot be read.
    """
    patch = read_patch(path)
    tensors: dict[str, dict[str, Any]] = {}
    for name in patch.names:
        a, b = patch.factors(name) if patch.kind == "lora" else (patch.tensors[name], None)
        shape = list(a.shape) if b is None else [len(b), *a.shape[1:]]
        component = name.partition(".")[0] if name.partition(".")[0] in patch.base else ""
        tensors[name] = {"component": component, "shape": shape, "weights": math.prod(shape),
                         "type": str(a.dtype).removeprefix("torch."), "rank": None if b is None else len(a)}  # fmt: skip
    components = {}
    for component, base in patch.base.items():
        inside = [t["weights"] for t in tensors.values() if t["component"] == component]
        components[component] = {"base": base.sha256, "tensors": len(inside), "weights": sum(inside),
                                 "of": base.weights, "share": sum(inside) / max(base.weights, 1)}  # fmt: skip
    return {"format": int(VERSION), "kind": patch.kind, "bytes": path.stat().st_size, "components": components,
            "tensors": tensors, "notes": patch.notes}  # fmt: skip


def apply(patch: Patch, model: Path, out: Path, undo: bool = True) -> Written:
    """Writes a copy of a model with an edit in it.

    Values are stored in the types that the model's files have.

    Args:
        patch: The edit.
        model: A folder of diffusers or transformers, or a safetensors file.
        out: A new place: a folder that `from_pretrained` reads, or a file.
        undo: Whether to keep the old values beside `out`, as a patch from which `revert` leads back.

    Raises:
        BadWeights: If the model is not the one that the patch belongs to, or cannot hold the new values.
        BadValue: If `out` is there already.
        StoreError: If it cannot be written.
    """
    checkpoint = _model(model, out)
    new, facts = _fitted(patch, checkpoint)
    back = undo_path(out) if undo else None
    with ExitStack() as drafts:
        if back is not None:
            old = {n: checkpoint[n] for n in new}
            restoring = Patch("tensors", checkpoint.bases(patch.base, new), old, {"undo": patch.notes})
            restoring.save(drafts.enter_context(fresh(back)))
        left = checkpoint.copy(drafts.enter_context(fresh(out)), new)
    return replace(facts, out=out, left_out=tuple(left), undo=back)


def write_folder(patch: Patch, model: Path, out: Path) -> Written:
    """Writes a copy of a model's folder with an edit in it and the patch beside the weights, as `patch.safetensors`.

    Args:
        patch: The edit.
        model: A folder of diffusers or transformers.
        out: A new place; `from_pretrained` reads it.

    Raises:
        UnlearnError: As `apply`; and if the model is no folder.
    """
    checkpoint = _model(model, out)
    if not model.is_dir():
        raise BadValue(f"{model} is no folder; give a folder of save_pretrained")
    new, facts = _fitted(patch, checkpoint)
    with fresh(out) as draft:
        left = checkpoint.copy(draft, new)
        patch.save(draft / PATCH)
    return replace(facts, out=out, left_out=tuple(left))


def revert(patch: Patch, model: Path, out: Path, base: Path | None = None) -> Written:
    """Takes an edit out of a model again, and makes sure that every bit is the base's.

    Args:
        patch: The edit that is in the model.
        model: Where `apply` wrote it, or a copy.
        out: A new place.
        base: Where the old values are: the base itself, or the undo that `apply` kept; by default the undo beside
            the model.

    Raises:
        BadWeights: If the old values are not to be had, or what comes out is not the base.
        BadValue: If `out` is there already.
        StoreError: If it cannot be written.
    """
    checkpoint, source = _model(model, out), base or undo_path(model)
    if base is None and not source.is_file():
        raise BadWeights(
            f"a patch does not hold what it replaced, and there is no {source}; name the base, or an undo, with --base"
        )
    known, old = open_checkpoint(source), {}
    for name in patch.names:
        there = checkpoint[name]
        old[name] = same_shape(name, known[name], there).to(there.dtype)
    for component, found in checkpoint.bases(patch.base, old).items():
        if found != patch.base[component]:
            raise BadWeights(
                f"the {component or 'model'} of {model} without the patch is not the patch's base; give the model that the patch was applied to, and the right base with --base"
            )
    with fresh(out) as draft:
        left = checkpoint.copy(draft, old)
    return Written(out, 0, left_out=tuple(left))


def stack(patches: Sequence[Path], out: Path, base: Path | None = None) -> Written:
    """Makes one patch of several patches of one base.

    New values are joined, and factors of one weight put side by side, which is the exact sum of their products.

    Args:
        patches: The patches.
        out: A new file.
        base: If given, weights that several patches change move by the sum of their differences from this model.

    Raises:
        BadValue: If there are fewer than two, or they change a weight in different ways and no base is given.
        BadWeights: If one cannot be read, or they belong to different bases.
        StoreError: If it cannot be written.
    """
    read = {str(p): read_patch(p) for p in patches}
    if len(read) < 2:
        raise BadValue(f"a stack is made of at least two patches, got {len(read)}")
    bases, kinds = _common(read), {p.kind for p in read.values()}
    kind: Literal["tensors", "lora"] = "tensors"
    if base is not None:
        known = open_checkpoint(base)
        check_bases(bases, known.bases(bases))
        tensors = _summed(list(read.values()), known)
    elif kinds == {"tensors"}:
        tensors = _joined(read)
    elif kinds == {"lora"}:
        kind, tensors = "lora", _side_by_side(list(read.values()))
    else:
        raise BadValue(
            "some of these patches hold new values and some factors, which have no sum without the weights; give --add --base MODEL"
        )
    made = Patch(kind, bases, tensors, {"stack": [p.notes for p in read.values()]})
    with fresh(out) as draft:
        made.save(draft)
    return Written(out, len(made.names))


def export_lora(patch: Patch, model: Path, out: Path, rank: int = 64) -> Written:
    """Writes an edit of a pipeline as a LoRA, which `pipe.load_lora_weights(out)` reads.

    Args:
        patch: Factors, which are taken as they are; or new values, whose differences from the base are factorised.
        model: The base.
        out: A new folder.
        rank: The largest rank for new values.

    Raises:
        BadValue: If the edit is of no low rank, or changes what a LoRA cannot; or `out` is there already.
        BadWeights: If the model is not the one that the patch belongs to.
        StoreError: If it cannot be written.
    """
    checkpoint = open_checkpoint(model)
    check_bases(patch.base, checkpoint.bases(patch.base))
    if not patch.names or "" in patch.base:
        what = "an edit of no pipeline" if patch.names else "an edit that changes nothing"
        raise BadValue(f"{what} cannot be exported as LoRA; give --as folder")
    if patch.kind == "lora":
        factors = {n: patch.factors(n) for n in patch.names}
    else:
        factors = factorised({n: _difference(patch, n, checkpoint[n]) for n in patch.names}, rank)
    state = lora_state(factors)
    with fresh(out) as draft:
        draft.mkdir()
        save_tensors(draft / FILE, state, format="pt")
    return Written(out, len(patch.names))


def undo_path(out: Path) -> Path:
    """Where the way back from an edited model is kept: beside it, so that what is published has no old values."""
    where = out.resolve()
    return where.with_name(f"{where.name.removesuffix('.safetensors')}.undo.safetensors")


def _model(path: Path, out: Path) -> Checkpoint:
    """The model at a path, if a copy of it may be called `out`."""
    checkpoint = open_checkpoint(path)
    if path.is_file() and out.suffix != ".safetensors":
        raise BadValue(
            f"{path} is a file, so is what comes out; name a .safetensors file with --out, got {out}"
        )
    return checkpoint


def _fitted(patch: Patch, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], Written]:
    """The new values in the types of the model's files, and what was rounded."""
    check_bases(patch.base, checkpoint.bases(patch.base))
    new: dict[str, Tensor] = {}
    rounded, error = 0, 0.0
    for name in patch.names:
        old = checkpoint[name]
        value = patch.value(name, old)
        new[name] = value.to(old.dtype)
        if value.dtype == old.dtype:
            continue
        if bool((value.isfinite() & ~new[name].isfinite()).any()):
            raise BadWeights(
                f"{name} reaches {float(value.abs().max()):.3g}, which {checkpoint.path} cannot hold in {old.dtype}; apply the patch to the model in single precision"
            )
        off = float((new[name].to(value.dtype) - value).abs().nan_to_num().max()) if value.numel() else 0.0
        rounded, error = rounded + (off > 0), max(error, off)
    return new, Written(checkpoint.path, len(new), rounded, error)


def _difference(patch: Patch, name: str, old: Tensor) -> Tensor:
    return patch.value(name, old).double() - old.double()


def _common(patches: Mapping[str, Patch]) -> dict[str, Base]:
    """The bases of all components that any of the patches changes."""
    first: dict[str, tuple[str, Base]] = {}
    for label, patch in patches.items():
        for component, base in patch.base.items():
            other, wanted = first.setdefault(component, (label, base))
            if base != wanted:
                raise BadWeights(
                    f"{other} and {label} belong to different bases: the {component or 'model'} of one is {wanted.sha256[:12]}, of the other {base.sha256[:12]}; stack patches of one model"
                )
    if "" in first and len(first) > 1:
        raise BadWeights(
            "some of these patches are of a pipeline and some are not; stack patches of one model"
        )
    return {component: base for component, (_, base) in first.items()}


def _joined(patches: Mapping[str, Patch]) -> dict[str, Tensor]:
    """All new values, where no two contradict each other."""
    made: dict[str, Tensor] = {}
    clash: list[str] = []
    for patch in patches.values():
        for name, t in patch.tensors.items():
            known = made.setdefault(name, t)
            if known.dtype != t.dtype or not torch.equal(known, t):
                clash.append(name)
    if clash:
        shown = ", ".join(sorted(set(clash))[:3]) + (", ..." if len(set(clash)) > 3 else "")
        raise BadValue(
            f"these patches change {len(set(clash))} tensors in different ways: {shown}; leave one patch out, or sum their differences from the base with --add --base MODEL"
        )
    return made


def _side_by_side(patches: Sequence[Patch]) -> dict[str, Tensor]:
    """Factors [A; A'] and [B B'] of every weight, whose product is B A + B' A'."""
    parts: dict[str, list[Tensor]] = {}
    for patch in patches:
        for name, t in patch.tensors.items():
            parts.setdefault(name, []).append(t)
    return {name: torch.cat(ts, 0 if name.endswith(LORA_A) else 1) for name, ts in parts.items()}


def _summed(patches: Sequence[Patch], base: Checkpoint) -> dict[str, Tensor]:
    """New values that lie off the base by the sum of the patches' differences; exact where only one differs."""
    made: dict[str, Tensor] = {}
    for name in sorted({n for p in patches for n in p.names}):
        old = base[name]
        values = [p.value(name, old) for p in patches if name in p.names]
        total = old.double() + sum(v.double() - old.double() for v in values)
        made[name] = values[0] if len(values) == 1 else total.to(values[0].dtype)
    return made
