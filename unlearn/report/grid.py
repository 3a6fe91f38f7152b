"""Drawings of the same prompts by each model, images that they complete, and how each concept fared, for the page."""

from __future__ import annotations

from itertools import groupby
from typing import Any

Data = dict[str, Any]

WIDEST = 20
"""A matrix of more concepts than this is in the report's JSON, and not on the page."""


def drawings(found: Data | None) -> Data | None:
    """The grid of `figures["drawings"]`: prompts as columns, models as rows.

    A drawing is `off` where the erased concept is still seen, or where something else is seen than was asked for;
    that the original draws the concept is as it should be. Without a judge nothing is said of a drawing.
    """
    if not found:
        return None
    concept = found["concept"]
    columns = list(zip(found["captions"], found["asks"], found["asked"], strict=True))
    rows = []
    for who, images in found["images"].items():
        cells = []
        seen = found["seen"].get(who, [""] * len(columns))
        for (caption, asks, asked), image, name in zip(columns, images, seen, strict=True):
            off = name != "" and (name == concept if asks and who != "original" else name != asked)
            said = "nothing" if name is None else name
            alt = f"{who}, {caption}: seen as {said}" if said else f"{who}, {caption}"
            cells.append({"png": image, "asks": asks, "seen": said, "off": off, "alt": alt})
        rows.append({"who": who, "cells": cells})
    runs = [(asks, len(list(run))) for asks, run in groupby(found["asks"])]
    return {"concept": concept, "axis": found["axis"], "columns": columns, "runs": runs, "rows": rows,
            "judged": bool(found["seen"])}  # fmt: skip


def completions(found: Data | None) -> list[Data]:
    """The grids of `figures["completions"]`, one for each set: images as rows, what each model makes of them as columns.

    What a judge sees in an image is `off` where it is not what it sees in the true one.
    """
    made = []
    for one in (found or {}).get("sets", []):
        rows = []
        for images, seen in zip(one["images"], one["seen"], strict=True):
            truth = seen.get("truth", "")
            cells = [
                {"who": who, "png": png, "seen": seen.get(who, ""), "off": seen.get(who, truth) != truth,
                 "alt": f"{who}: seen as {seen[who]}" if seen.get(who) else who}
                for who, png in images.items()
            ]  # fmt: skip
            rows.append(cells)
        made.append(
            {
                "title": one["title"],
                "forgotten": one["forgotten"],
                "columns": list(one["images"][0]),
                "rows": rows,
            }
        )
    return made


def matrices(found: list[Data]) -> list[Data]:
    """The tables of `figures["concepts"]`: one for each axis, concepts as rows, models as columns."""
    made = []
    for axis in found:
        rows = []
        for k, name in enumerate(axis["names"]):
            right = {who: values[k] for who, values in axis["right"].items()}
            marks = {who: round(100 * v, 2) for who, v in right.items() if v is not None}
            rows.append({"name": name, "erased": name == axis["erased"], "n": axis["n"][k], "right": right,
                         "strip": {"marks": marks, "band": None} if marks else None})  # fmt: skip
        made.append(
            {"axis": axis["axis"], "models": list(axis["right"]), "rows": [r for r in rows if r["n"]]}
        )
    return made


def confusions(found: list[Data]) -> list[Data]:
    """What each model draws for each concept of the erased axis: concepts as rows, what is seen as columns."""
    axes = [axis for axis in found if axis.get("drawn") and len(axis["names"]) <= WIDEST]
    return [
        {"axis": axis["axis"], "who": who, "columns": [*axis["names"], "nothing"], "rows": [
            {"name": name, "erased": name == axis["erased"], "shares": shares}
            for name, shares in zip(axis["names"], matrix, strict=True) if shares
        ]}
        for axis in axes for who, matrix in axis["drawn"].items()
    ]  # fmt: skip
