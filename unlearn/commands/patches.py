"""The group `patch`: its words, and what they do. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn.commands import console
from unlearn.errors import BadValue

if TYPE_CHECKING:
    from unlearn.patching import Written

GivenPatch = Annotated[Path, typer.Argument(metavar="PATCH", help="Patch, a safetensors file.")]
GivenModel = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Folder of diffusers or transformers, or a safetensors file."),
]
NewModel = Annotated[Path, typer.Option(help="Where to write the model: a new folder or file, as MODEL is.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


class Form(StrEnum):
    """What an edit may be exported as."""

    FOLDER = "folder"
    LORA = "lora"


def inspect(patch: GivenPatch, json: Json = False) -> None:
    """Show what a patch changes: tensors, share of each component, size, base, notes."""
    from unlearn import patching

    found = patching.inspect(patch)
    if json:
        console.say_json(found)
        return
    components = found["components"]
    console.table(["what it changes", "tensors", "weights", "share", "held as"], _rows(found))
    for name, c in components.items():
        said = f"{c['weights']:,} of {c['of']:,} weights ({c['share']:.2%}), base {c['base']}"
        console.say(f"{name or 'model'}: {said}")
    for name, value in found["notes"].items():
        console.say(f"{name}: {value}")
    console.say(f"{found['bytes']:,} bytes, kind {found['kind']}, format {found['format']}")


def apply(
    patch: GivenPatch,
    model: GivenModel,
    out: NewModel,
    undo: Annotated[
        bool, typer.Option("--undo/--no-undo", help="Keep the old values beside the new model, for revert.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a copy of a model with an edit in it."""
    from unlearn import patching
    from unlearn.patch import read_patch

    _say(patching.apply(read_patch(patch), model, out, undo), "the patch is in", json)


def revert(
    patch: GivenPatch,
    model: GivenModel,
    out: NewModel,
    base: Annotated[
        Path | None,
        typer.Option(help="The base, or an undo of it; default: the undo that apply left beside the model."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a copy of an edited model without the edit: the base, bit for bit."""
    from unlearn import patching
    from unlearn.patch import read_patch

    _say(patching.revert(read_patch(patch), model, out, base), "the base is back, bit for bit:", json)


def stack(
    patches: Annotated[list[Path], typer.Argument(metavar="PATCH PATCH...", help="Patches of one base.")],
    out: Annotated[Path, typer.Option(help="Where to write the patch, a new safetensors file.")],
    add: Annotated[
        bool, typer.Option("--add", help="Sum differences where several change one tensor; needs --base.")
    ] = False,
    base: Annotated[Path | None, typer.Option(help="The model that the patches belong to.")] = None,
    json: Json = False,
) -> None:
    """Make one patch of several of one base."""
    from unlearn import patching

    if add != (base is not None):
        raise BadValue("--add sums differences from the base, so --add and --base MODEL go together")
    _say(patching.stack(patches, out, base), f"{len(patches)} patches are one:", json)


def export(
    patch: GivenPatch,
    model: GivenModel,
    out: NewModel,
    form: Annotated[Form, typer.Option("--as", help="A whole model, or a LoRA file for diffusers.")],
    rank: Annotated[int, typer.Option(help="Highest rank of a LoRA made of new values.", min=1)] = 64,
    json: Json = False,
) -> None:
    """Write an edit for other tools: as a model folder, or as a LoRA that `load_lora_weights` reads."""
    from unlearn import patching
    from unlearn.patch import read_patch

    found = read_patch(patch)
    if form is Form.LORA:
        _say(patching.export_lora(found, model, out, rank), "a LoRA for pipe.load_lora_weights:", json)
    else:
        _say(patching.apply(found, model, out, undo=False), "the patch is in", json)


def group() -> typer.Typer:
    """The commands as one group."""
    made = typer.Typer(no_args_is_help=True, help="Edits as small files: apply, revert, stack, export.")
    for command in (inspect, apply, revert, stack, export):
        made.command()(command)
    return made


def _rows(found: dict[str, Any]) -> list[list[str]]:
    """Tensors of one kind in one row: those whose names differ in the middle only."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, t in found["tensors"].items():
        groups.setdefault(_short(name), []).append(t)
    rows = []
    for name, ts in groups.items():
        weights = sum(t["weights"] for t in ts)
        share = weights / max(found["components"][ts[0]["component"]]["of"], 1)
        held = sorted({t["type"] if t["rank"] is None else f"rank {t['rank']}" for t in ts})
        rows.append([name, str(len(ts)), f"{weights:,}", f"{share:.2%}", ", ".join(held)])
    return rows


def _short(name: str) -> str:
    """A name without its numbers and what lies between the first and the last of them.

    Example:
        >>> _short("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight")
        'unet.up_blocks … transformer_blocks.*.attn2.to_k.weight'
    """
    first, *middle = re.split(r"\.\d+\.", name)
    if not middle:
        return name
    return f"{first}.*.{middle[0]}" if len(middle) == 1 else f"{first} … {'.*.'.join(middle[-2:])}"


def _say(done: Written, what: str, json: bool) -> None:
    if json:
        console.say_json({
            "out": str(done.out), "tensors": done.tensors, "rounded": done.rounded, "error": done.error,
            "left_out": list(done.left_out), "undo": None if done.undo is None else str(done.undo),
        })  # fmt: skip
        return
    console.say(f"{what} {done.out}")
    if done.tensors:
        console.say(f"{done.tensors} tensors are not the base's")
    if done.rounded:
        console.say(f"{done.rounded} of them were rounded to half precision, by {done.error:.2g} at most")
    if done.left_out:
        console.say(f"left out, because they hold weights without the edit: {', '.join(done.left_out)}")
    if done.undo is not None:
        console.say(f"the way back: {done.undo}")
