"""Labelled data that are at hand: tables of the `datasets` library, tensors, arrays, torch data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unlearn.data import RESIDENT_BYTES
from unlearn.errors import BadData
from unlearn.ops.division import part
from unlearn.ops.pictures import Frame, Pictures, Taken
from unlearn.request import Labels
from unlearn.scenario import Part
from unlearn.sources import Arrays, Items, Source

LABELS = ("label", "labels", "fine_label", "target", "class", "y")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns and splits of a table to read; what is empty is found.

    Attributes:
        image: Inputs.
        label: Classes.
        group: Owners of the examples.
        train: Split that the model is trained on.
        test: Split that it never saw.
    """

    image: str = ""
    label: str = ""
    group: str = ""
    train: str = "train"
    test: str = ""


@runtime_checkable
class Pairs(Protocol):
    """Anything of known length whose items are (input, target) pairs, such as a torch `Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def in_memory(data: Any, columns: Columns, frame: Frame, classes: Sequence[str] = ()) -> Part:
    """Data that a user's function returned.

    Args:
        data: A pair (x, y) of tensors or arrays, a torch `Dataset` of (input, target) pairs, or a
            `datasets.Dataset`. Images in NumPy arrays have their channels last, in tensors first.
        columns: Columns of a `datasets.Dataset`.
        frame: Size and colours of its images.
        classes: Names of the classes.

    Raises:
        BadData: If it is none of these, is empty, or holds NaN or infinite inputs.
    """
    if isinstance(data, Part):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        x, y = (
            _tensor(_channels_first(d), what) for d, what in zip(data, ("inputs", "targets"), strict=True)
        )
        source: Source = Arrays(x, y if y.is_floating_point() else y.long())
    elif _is_table(data):
        return table_part(data, columns, frame, classes)
    elif isinstance(data, Pairs):
        source = _pairs(data)
    else:
        raise BadData(
            f"cannot read data of type {type(data).__name__}; give (x, y) tensors or arrays, a torch Dataset of pairs with a length, or a datasets.Dataset"
        )
    if not len(source):
        raise BadData("a data set is empty; give at least one example of each class")
    return part(source, Labels(source.y, tuple(classes)))


def _is_table(data: Any) -> bool:
    return type(data).__module__.startswith("datasets.")


def table_part(table: Any, columns: Columns, frame: Frame, classes: Sequence[str]) -> Part:
    """A `datasets.Dataset` as a part."""
    from datasets import Image

    names = list(table.column_names)
    label = _column(columns.label, [n for n in LABELS if n in names] or _class_columns(table), names, "label")
    image = _column(columns.image, _image_columns(table), names, "image")
    if not len(table):
        raise BadData("a data set is empty; give at least one example of each class")
    y, classes = _classes_of(table, label, classes)
    groups = None
    if columns.group:
        _column(columns.group, [], names, "group")
        groups = tuple(map(str, table.with_format(None)[columns.group]))
    labels = Labels(y, tuple(classes), groups=groups)
    if image in _image_columns(table):
        raw = table.select_columns([image]).cast_column(image, Image(decode=False))
        return part(Pictures(_TableColumn(raw, image), y, frame), labels)
    values = table.select_columns([image]).with_format("numpy")[image][:]
    if values.dtype == object or values.dtype.kind not in "fiub":
        raise BadData(
            f"the column {image!r} holds neither images nor numbers of one shape; name one of {names}"
        )
    return part(Arrays(torch.from_numpy(np.array(values)), y), labels)


def _column(asked: str, found: Sequence[str], names: Sequence[str], what: str) -> str:
    if asked and asked not in names:
        raise BadData(f"no column {asked!r} for the {what}; there are {', '.join(names)}")
    if not asked and not found:
        raise BadData(
            f"no column looks like the {what}; there are {', '.join(names)}; name it with {what}_column=NAME"
        )
    return asked or found[0]


def _image_columns(table: Any) -> list[str]:
    from datasets import Image

    def is_image(feature: Any) -> bool:
        return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    return [n for n, f in table.features.items() if is_image(f)]


def _class_columns(table: Any) -> list[str]:
    from datasets import ClassLabel

    return [n for n, f in table.features.items() if isinstance(f, ClassLabel)]


def _classes_of(table: Any, label: str, classes: Sequence[str]) -> tuple[Tensor, Sequence[str]]:
    from datasets import ClassLabel

    feature, values = table.features[label], table.with_format(None)[label]
    if isinstance(feature, ClassLabel):
        return torch.tensor(list(values)), feature.names
    words = list(values)
    if not all(isinstance(w, str) for w in words):
        return _tensor(words, f"the labels in the column {label!r}"), classes
    classes = classes or sorted(set(words))
    if strange := set(words) - set(classes):
        raise BadData(f"the label {min(strange)!r} of a held-out split never comes in the training data")
    ids = {c: i for i, c in enumerate(classes)}
    return torch.tensor([ids[w] for w in words]), classes


class _TableColumn:
    """Some pictures of a column of a table."""

    def __init__(self, table: Any, column: str) -> None:
        self.table, self.column = table, column

    def __call__(self, at: list[int]) -> list[Any]:
        """The pictures at these positions."""
        return list(self.table[at][self.column])


def _tensor(data: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as err:
        raise BadData(
            f"{what} are no numbers of one shape: {str(err).splitlines()[0]}; give tensors or arrays"
        ) from err


def _channels_first(data: Any) -> Any:
    if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim in (3, 4):
        return np.ascontiguousarray(data[:, None] if data.ndim == 3 else data.transpose(0, 3, 1, 2))
    return data


def _pairs(data: Any) -> Source:
    """An indexable of (input, target) pairs: kept whole where it fits into memory."""
    if not len(data):
        return Arrays(torch.zeros(0, 1), torch.zeros(0, dtype=torch.long))
    try:
        first, _ = data[0]
    except (TypeError, ValueError) as err:
        raise BadData(
            f"item 0 of {type(data).__name__} is no (input, target) pair: {err}; return pairs"
        ) from err
    try:
        torch.as_tensor(first)
    except (TypeError, ValueError, RuntimeError):
        y = torch.as_tensor([int(data[i][1]) for i in range(len(data))])
        return Pictures(Taken(_Inputs(data)), y, Frame())
    if torch.as_tensor(first).nbytes * len(data) > RESIDENT_BYTES:
        return Items(data)
    pairs = [data[i] for i in range(len(data))]
    try:
        x = torch.stack([torch.as_tensor(a) for a, _ in pairs])
    except RuntimeError as err:
        raise BadData(
            f"the inputs differ in shape: {str(err).splitlines()[0]}; resize them in your data set"
        ) from err
    return Arrays(x, _tensor([b for _, b in pairs], "targets"))


class _Inputs(Sequence[Any]):
    """The first half of each pair."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: Any) -> Any:
        return self.data[i][0]
