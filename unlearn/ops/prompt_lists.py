"""Prompt files with the columns that the literature uses."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unlearn.errors import BadData, BadValue

T = TypeVar("T", int, float)
SEEDS = ("evaluation_seed", "sd_seed")
GUIDANCES = ("guidance", "sd_guidance_scale")
LABELS = ("classes", "label")
CASE = "case_number"
KNOWN = ("prompt", *SEEDS, *GUIDANCES, *LABELS, CASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of a prompt file.

    Attributes:
        prompt: The text.
        seed: Of its noise, or None.
        guidance: Scale of its guidance, or None.
        label: What it asks for; nothing where that is not said.
        case: Its number in the file's own counting, else its position.
    """

    prompt: str
    seed: int | None
    guidance: float | None
    label: str
    case: str


def read_prompts(path: Path) -> list[Asked]:
    """Reads a CSV file with a header, as those of I2P, of UnlearnDiffAtk, or lists of COCO captions.

    Columns: `prompt`, and where there are any a seed, a guidance scale, a label and `case_number`, by one of the names in
    this module; others are ignored.

    Raises:
        BadValue: If it cannot be read, lacks the column `prompt`, or a number is none; with the line.
        BadData: If it holds no prompt.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="")
            columns = [c.strip() for c in rows.fieldnames or ()]
            rows.fieldnames = columns
            lines = [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise BadValue(f"cannot read prompts from {path}: {err}; give a CSV file in UTF-8") from err
    if columns and "prompt" not in columns:
        raise BadValue(
            f"{path} has no column 'prompt', but {', '.join(map(repr, columns))}; known are {', '.join(KNOWN)}"
        )
    if not lines:
        raise BadData(f"{path} holds no prompt; give a CSV file with a header and a line for each prompt")
    return [_asked(row, f"{path}, line {n}", str(k)) for k, (n, row) in enumerate(lines)]


def _asked(row: Mapping[str, str], where: str, place: str) -> Asked:
    seed = _number(row, SEEDS, int, where)
    if seed is not None and not 0 <= seed < 2**63:
        raise BadValue(f"{where}: a seed must be at least 0 and below 2**63, got {seed}")
    guidance = _number(row, GUIDANCES, float, where)
    return Asked(row["prompt"], seed, guidance, _first(row, LABELS)[1], _first(row, (CASE,))[1] or place)


def _number(row: Mapping[str, str], names: tuple[str, ...], kind: Callable[[str], T], where: str) -> T | None:
    column, text = _first(row, names)
    try:
        return kind(text) if text else None
    except ValueError:
        raise BadValue(f"{where}: {column} must be a number, got {text!r}") from None


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """Name and text of the first of some columns that is filled in."""
    return next(((n, row[n].strip()) for n in names if row.get(n, "").strip()), ("", ""))
