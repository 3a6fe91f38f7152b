"""Options that several commands share, and what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

LARGEST_SEED = 2**32 - 1  # of NumPy's generator
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
StorePath = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="UNLEARN_STORE", help="Folder of results; default: the user's cache folder."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Page = Annotated[Path | None, typer.Option(help="Where to write the page; default: in the store.")]
Minutes = Annotated[float | None, typer.Option(help="Time that one unlearning call may take.", min=0)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Unlearn again what the store has.")]
Oracles = Annotated[
    int | None, typer.Option(help="Retrained references, two give noise floors; default: the suite's.", min=1)
]
Measured = Annotated[str, typer.Option(help="Metrics, joined by commas; default: those of the suite.")]
ShowForgotten = Annotated[
    bool, typer.Option("--show-forgotten", help="Picture forgotten examples in the page.")
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="TOML file with what must hold; default with standard and full: ours."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers methods, metrics or attacks."),
]


def own(text: str) -> Any:
    """An option about the user's own model and data."""
    return typer.Option(help=text, rich_help_panel="Your own model and data")


def tried() -> Any:
    """The option that names attacks."""
    return typer.Option(
        "--attack",
        help="Attack, see `unlearn attacks`, with its options if any: inversion/iterations=1000; may be given several times.",
        autocompletion=_attacks,
    )


def load_plugins(paths: Sequence[Path] | None) -> None:
    """Imports the files that `--plugin` names."""
    from unlearn.registry import load_file

    for path in paths or ():
        load_file(path)


def _attacks() -> list[str]:
    from unlearn.registry import attacks

    return attacks.names()
