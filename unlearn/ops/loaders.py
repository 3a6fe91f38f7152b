"""Labelled data from folders and from the hub.

A folder may hold the hub's parquet files, `{train,test}_{images,labels}.npy`, the idx files of MNIST, a data
set saved by `datasets`, or one folder of images for each class below `train/` and `test/`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import BadData
from unlearn.ops import hub
from unlearn.ops.division import content_of, part
from unlearn.ops.pictures import Frame, Pictures, Taken
from unlearn.ops.tables import Columns, in_memory, table_part
from unlearn.provenance import digest
from unlearn.request import Labels
from unlearn.scenario import Part
from unlearn.sources import Arrays

TESTS = ("test", "validation", "valid", "val")
PIXELS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".gif", ".tif", ".tiff")
FORMATS = (
    "hub parquet files, {train,test}_{images,labels}.npy, idx(.gz) files, a saved data set, "
    "or train/CLASS/*.png and test/CLASS/*.png"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Data as they were found.

    Attributes:
        train: The training split.
        test: The test split, or None where there is none.
        content: Hash of both.
    """

    train: Part
    test: Part | None
    content: str


def load(where: str, columns: Columns | None = None, frame: Frame | None = None) -> Loaded:
    """Reads data from a folder, or from the hub where there is no such folder.

    Args:
        where: Path of a folder or `owner/name` on the hub.
        columns: Columns and splits to take.
        frame: Size and colours of the images.

    Raises:
        BadData: If nothing is there or it cannot be read, with what was tried.
    """
    columns, frame = columns or Columns(), frame or Frame()
    folder = Path(where).expanduser()
    if not folder.is_dir():
        return from_table(_from_hub(where), columns, frame)
    names = [p.name for p in folder.iterdir()]
    if any(n.endswith("_images.npy") for n in names):
        found = {n.removesuffix("_images.npy") for n in names if n.endswith("_images.npy")}
        return loaded([_npy(folder, s) for s in chosen_splits(found, columns)])
    if any("-idx" in n for n in names):
        return loaded([_idx(folder, "train"), _idx(folder, "t10k")])
    if {"dataset_dict.json", "state.json"} & set(names):
        from datasets import load_from_disk

        return from_table(load_from_disk(str(folder)), columns, frame)
    if parquet := sorted(folder.rglob("*.parquet")):
        return from_table(_from_parquet(parquet, folder), columns, frame)
    if any(p.suffix.lower() in PIXELS for p in folder.glob("*/*")) or (folder / columns.train).is_dir():
        return _folders(folder, columns, frame)
    raise BadData(f"{where} holds no data that can be read; a folder may hold {FORMATS}")


def chosen_splits(found: Iterable[str], columns: Columns) -> list[str]:
    """Names of the training split and, where there is one, of the test split.

    Raises:
        BadData: If one that was asked for is not there.
    """
    there = sorted(found)
    for asked, field in ((columns.train, "train_split"), (columns.test, "test_split")):
        if asked and asked not in there:
            raise BadData(
                f"the data have no split called {asked!r}; there are {', '.join(there)}; name it with {field}=NAME"
            )
    test = columns.test or next((n for n in TESTS if n in there and n != columns.train), "")
    return [columns.train, test] if test else [columns.train]


def loaded(parts: Sequence[Part]) -> Loaded:
    """Training data and, where there are two parts, test data, with their hash."""
    return Loaded(parts[0], parts[1] if len(parts) > 1 else None, digest([content_of(p) for p in parts]))


def _npy(folder: Path, split: str) -> Part:
    paths = [folder / f"{split}_{what}.npy" for what in ("images", "labels")]
    try:
        x, y = (np.load(p, allow_pickle=False) for p in paths)
    except (OSError, ValueError, EOFError) as err:
        raise BadData(
            f"cannot read {paths[0]} and {paths[1].name}: {err}; write both again with numpy.save"
        ) from err
    return in_memory((x, y.astype(np.int64)), Columns(), Frame(), _class_names(folder))


def _idx(folder: Path, split: str) -> Part:
    x, y = (_read_idx(folder, f"{split}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    y = y.long()
    return part(Arrays(x[:, None], y), Labels(y, _class_names(folder)))


def _read_idx(folder: Path, name: str) -> Tensor:
    """One idx file, see http://yann.lecun.com/exdb/mnist: a magic number, the sizes, the bytes."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise BadData(f"{folder} holds no {name}.gz; give the four idx files")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = raw[3]
        sizes = np.frombuffer(raw, ">i4", dims, 4).tolist()
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as err:
        raise BadData(f"{path} is no complete idx file: {err}; fetch it again") from err
    return torch.from_numpy(values.copy())


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / "classes.json"
    names = json.loads(path.read_text()) if path.is_file() else []
    return tuple(names) if isinstance(names, list) else ()


def _folders(folder: Path, columns: Columns, frame: Frame) -> Loaded:
    """One folder of images for each class, below folders for the splits or not."""
    splits = {n: folder / n for n in (columns.train, columns.test, *TESTS) if n and (folder / n).is_dir()}
    if columns.train not in splits:
        splits = {columns.train: folder}
    classes = tuple(sorted(p.name for p in splits[columns.train].iterdir() if p.is_dir()))
    if not classes:
        raise BadData(f"{splits[columns.train]} holds no folders; give one folder of images for each class")
    parts = []
    for root in (splits[n] for n in chosen_splits(splits, columns)):
        if strange := {p.name for p in root.iterdir() if p.is_dir()} - set(classes):
            raise BadData(f"{root} has the class {min(strange)!r}, which {splits[columns.train]} lacks")
        files = [(p, c) for c, k in enumerate(classes) for p in sorted((root / k).rglob("*"))]
        images = [(p, c) for p, c in files if p.suffix.lower() in PIXELS]
        if not images:
            raise BadData(f"{root} holds no images; they end in {', '.join(PIXELS)}")
        y, paths = torch.tensor([c for _, c in images]), [p for p, _ in images]
        parts.append(part(Pictures(Taken(paths), y, frame), Labels(y, classes)))
    return loaded(parts)


def _from_parquet(files: Sequence[Path], folder: Path) -> Any:
    from datasets import load_dataset

    splits: dict[str, list[str]] = {}
    for p in files:
        name = re.split(r"[-_.]", p.name)[0]
        splits.setdefault(p.parent.name if name.isdecimal() else name, []).append(str(p))
    try:
        return load_dataset("parquet", data_files=splits)
    except Exception as err:
        raise BadData(f"cannot read the parquet files in {folder}: {_first_line(err)}") from err


def _from_hub(where: str) -> Any:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-]+", where) or where.startswith("."):
        raise BadData(f"no folder {where!r} here; a folder may hold {FORMATS}")
    from datasets import load_dataset

    hub.quiet()
    try:
        return load_dataset(where)
    except Exception as err:
        raise BadData(
            f"no data at {where!r}: there is no such folder here, and the hub said: {_first_line(err)}; give a folder with data=PATH, which may hold {FORMATS}"
        ) from err


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]


def from_table(found: Any, columns: Columns, frame: Frame) -> Loaded:
    """Data of the `datasets` library.

    Args:
        found: A `datasets.DatasetDict`, or a `datasets.Dataset` that is all training data.
        columns: Columns and splits to take.
        frame: Size and colours of the images.

    Raises:
        BadData: If a column or split is missing.
    """
    splits = found if isinstance(found, Mapping) else {columns.train: found}
    parts: list[Part] = []
    for name in chosen_splits(splits, columns):
        classes = parts[0].labels.classes if parts else ()
        parts.append(table_part(splits[name], columns, frame, classes))
    return loaded(parts)
