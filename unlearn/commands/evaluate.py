"""The command `evaluate`: draws the prompts of a file, and lets a judge look."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn.commands import console
from unlearn.commands.words import LARGEST_SEED, Device, Json
from unlearn.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from unlearn.listed import Panel, Share
    from unlearn.ops.prompt_lists import Asked


def evaluate(
    folder: Annotated[str, typer.Argument(help="Folder of a diffusers pipeline, or hub name.")],
    prompts: Annotated[Path, typer.Option(help="CSV file with a column `prompt`, such as those of I2P.")],
    judge: Annotated[
        str, typer.Option(help="Image classifier: folder or hub name; or ink, for the shipped judges.")
    ],
    concept: Annotated[str, typer.Option(help="What every prompt asks for and no drawing should show.")] = "",
    images: Annotated[Path | None, typer.Option(help="New folder for the drawings, as PNG.")] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the first prompt, counted up; where the file has none.", min=0, max=LARGEST_SEED
        ),
    ] = 0,
    steps: Annotated[int, typer.Option(help="Sampling steps; 0 for the pipeline's own.", min=0)] = 0,
    guidance: Annotated[
        float, typer.Option(help="Guidance, where the file has none; 0 for the pipeline's own.", min=0)
    ] = 0,
    size: Annotated[
        int, typer.Option(help="Side of a drawing, in pixels; 0 for the pipeline's own.", min=0)
    ] = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Draw the prompts of a file with any pipeline, and say how often a judge sees what."""
    from unlearn import listed
    from unlearn.ops.prompt_lists import read_prompts
    from unlearn.runtime import Run, pick_device, within_memory
    from unlearn.scenarios._diffusion import load_pipeline

    lines = read_prompts(prompts)
    asked = [replace(a, seed=seed + k) if a.seed is None else a for k, a in enumerate(lines)]
    judges = listed.panel(judge, concept)
    if images is not None:
        _vacant(images)
    on = pick_device(device)
    with console.bars() as bars, within_memory():
        loaded = load_pipeline(folder, steps, guidance, size)
        loaded.subject.module.to(on)
        found = []
        drawn = listed.drawings(loaded, asked, on)
        for k, (line, image) in enumerate(Run(device=on, progress=bars).track(drawn, "draw", len(asked))):
            found.append((line, listed.looked(judges, image)))
            if images is not None:
                _write(images, f"{k:05d}.png", image)
    told = Told(judges, concept, tuple(found))
    if json:
        console.say_json(told.to_dict())
    else:
        told.say()


@dataclass(frozen=True, slots=True)
class Told:
    """What judges saw.

    Attributes:
        judges: Who looked.
        concept: What every prompt asked for, or nothing.
        found: Each prompt with what was seen, by axis.
    """

    judges: Panel
    concept: str
    found: tuple[tuple[Asked, dict[str, str]], ...]

    def seen(self, axis: str) -> list[str]:
        """What was seen in each drawing on one axis."""
        return [seen[axis] for _, seen in self.found]

    def shares(self) -> dict[str, dict[str, Share]]:
        """How often each name was seen, by axis."""
        from unlearn.listed import shares

        return {axis: shares(names, self.seen(axis)) for axis, (names, _) in self.judges.items()}

    def erased(self) -> Share | None:
        """UA: how often another concept was seen than the one that was asked for."""
        from unlearn.listed import erased

        each = (erased(self.concept, names, self.seen(axis)) for axis, (names, _) in self.judges.items())
        return next((share for share in each if share is not None), None)

    def labelled(self) -> Share | None:
        """How often a judge saw the label that the file gives, over the lines that give one."""
        from unlearn.listed import Share

        hits = [
            line.label.lower() in (s.lower() for s in seen.values())
            for line, seen in self.found
            if line.label
        ]
        return Share(sum(hits), len(hits)) if hits else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        ua, labelled = self.erased(), self.labelled()
        lines = [
            {
                "prompt": a.prompt,
                "case": a.case,
                "seed": a.seed,
                "guidance": a.guidance,
                "label": a.label,
                "seen": seen,
            }
            for a, seen in self.found
        ]
        return {
            "concept": self.concept or None,
            "ua": _json(ua) if ua and self.concept else None,
            "labelled": _json(labelled) if labelled else None,
            "shares": {axis: {n: _json(s) for n, s in some.items()} for axis, some in self.shares().items()},
            "drawings": lines,
        }

    def say(self) -> None:
        """Prints tables, the most frequent name first."""
        for axis, some in self.shares().items():
            rows = sorted(some.items(), key=lambda pair: -pair[1].hits)
            console.table([axis, "share", "95 %", "drawings"], [_row(n, s) for n, s in rows if s.hits])
            console.say("")
        for share, said in ((self.erased() if self.concept else None, f"show another concept than {self.concept} (UA)"),
                            (self.labelled(), "show the label of their line")):  # fmt: skip
            if share:
                low, high = share.ends
                console.say(
                    f"{share.hits} of {share.n} drawings {said}: {share.value:.1%} ({low:.1%} to {high:.1%}, Wilson)"
                )


def _row(name: str, share: Share) -> list[str]:
    low, high = share.ends
    return [name, f"{share.value:.1%}", f"{low:.1%} to {high:.1%}", f"{share.hits} of {share.n}"]


def _json(share: Share) -> dict[str, float]:
    low, high = share.ends
    return {"share": share.value, "low": low, "high": high, "hits": share.hits, "n": share.n}


def _vacant(folder: Path) -> None:
    """Refuses a folder that is in use, before anything is drawn."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadValue(f"{folder} is there already; choose a new folder with --images")


def _write(folder: Path, name: str, image: Tensor) -> None:
    from unlearn.drawings import png

    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(base64.b64decode(png(image)))
