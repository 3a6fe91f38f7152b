"""Models on disk as named tensors, read one by one and written into a copy that is equal in every other byte."""

from __future__ import annotations

import functools
import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unlearn.errors import BadValue, BadWeights, StoreError, UnlearnError
from unlearn.ops import hub
from unlearn.patch import Base, base_of, raw
from unlearn.store import replacing

INDEX = ".safetensors.index.json"
ENTRIES = (  # in the order in which transformers, then diffusers, looks for them when no variant is named
    "model.safetensors",
    f"model{INDEX}",
    f"diffusion_pytorch_model{INDEX}",
    "diffusion_pytorch_model.safetensors",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS = (".safetensors", ".msgpack", ".h5", ".onnx", ".onnx_data", ".gguf", *PICKLED)
Place = tuple[Path, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A diffusers folder, a transformers folder, or one safetensors file.

    Attributes:
        path: Where it lies.
        shelves: The file of each tensor, by component and by the name in the file; what is no pipeline is one
            component without a name.
    """

    path: Path
    shelves: Mapping[str, Mapping[str, Path]]

    def find(self, name: str) -> Place:
        """The file that holds a tensor, and the tensor's name there.

        Libraries rename tensors as they load: a prefix such as `text_model.` comes or goes, and transformers keeps a
        table for each architecture.

        Args:
            name: As in the loaded model, after the component's name in a pipeline.

        Raises:
            BadWeights: If there is no such tensor.
        """
        component, _, rest = name.partition(".")
        if component not in self.shelves:
            component, rest = "", name
        shelf = self.shelves.get(component, {})
        key = _match(rest, shelf)
        if key is None and self.path.is_dir():
            key = _match(_saved_names(self.path / component).get(rest, rest), shelf)
        if key is None:
            raise BadWeights(
                f"{self.path} has no tensor {name}; apply the patch to the architecture that it was made from"
            )
        return shelf[key], key

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, see `find`."""
        path, key = self.find(name)
        with safe_open(path, framework="pt") as f:
            found: Tensor = f.get_tensor(key)
        return found

    def bases(self, components: Iterable[str], values: Mapping[str, Tensor] | None = None) -> dict[str, Base]:
        """What patches of these components would belong to, with some tensors replaced.

        Raises:
            BadWeights: If it lacks a component.
        """
        new = {self.find(n): t for n, t in (values or {}).items()}
        return {c: base_of(self._tensors(c, new)) for c in components}

    def copy(self, draft: Path, values: Mapping[str, Tensor]) -> list[str]:
        """Writes it anew with some tensors replaced; every other byte stays.

        Weights that `from_pretrained` does not read are left out, because they would still be the old ones: other
        variants, other formats, single-file checkpoints.

        Args:
            draft: A place that does not exist yet.
            values: New values by name, of the types and shapes that the files hold.

        Returns:
            Names of the files that were left out.
        """
        edits: dict[Path, dict[str, Tensor]] = {}
        for name, t in values.items():
            path, key = self.find(name)
            edits.setdefault(path, {})[key] = t
        if self.path.is_file():
            _copy_file(self.path, draft, edits.get(self.path, {}))
            return []
        used = {p for shelf in self.shelves.values() for p in shelf.values()}
        used |= {entry for folder in {p.parent for p in used} if (entry := _entry(folder))}
        left = []
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            within = path.relative_to(self.path)
            if any(part.startswith(".") for part in within.parts):
                continue
            if path not in used and path.name.endswith((*WEIGHTS, ".index.json")):
                left.append(str(within))
                continue
            (draft / within).parent.mkdir(parents=True, exist_ok=True)
            _copy_file(path, draft / within, edits.get(path, {}))
        return left

    def _tensors(self, component: str, new: Mapping[Place, Tensor]) -> Iterator[Tensor]:
        shelf = self.shelves.get(component)
        if shelf is None and self.path.is_file():
            shelf = {n: p for n, p in self.shelves[""].items() if n.startswith(f"{component}.")}
        if not shelf:
            here = ", ".join(c for c in self.shelves if c) or "one model"
            wanted = f"the component {component}" if component else "a single model"
            raise BadWeights(
                f"the patch is of {wanted}, {self.path} holds {here}; give the model that it was made from"
            )
        for path in sorted(set(shelf.values())):
            with safe_open(path, framework="pt") as f:
                for key in (k for k, p in shelf.items() if p == path):
                    yield new[path, key] if (path, key) in new else f.get_tensor(key)


def open_checkpoint(path: Path) -> Checkpoint:
    """Finds the weights of a model on disk; reads none.

    Args:
        path: A folder that `save_pretrained` of diffusers or transformers wrote, or a safetensors file.

    Raises:
        BadWeights: If there is none, or a part of it has only pickled weights.
    """
    if path.is_file():
        return Checkpoint(path, {"": {n: path for n in _header(path)[0]}})
    if not path.is_dir():
        raise BadWeights(f"no model at {path}; give a folder of save_pretrained, or a safetensors file")
    index = path / "model_index.json"
    if index.is_file():
        found = {c: _shelf(path / c) for c, what in _json(index).items() if _folder(path, c, what)}
    else:
        found = {"": _shelf(path)}
    shelves = {c: shelf for c, shelf in found.items() if shelf}
    if not shelves:
        raise BadWeights(
            f"no weights in {path}: neither model_index.json nor model.safetensors; give a folder of save_pretrained, or a safetensors file"
        )
    return Checkpoint(path, shelves)


@contextmanager
def fresh(out: Path) -> Iterator[Path]:
    """Lends a draft beside `out`, file or folder, that takes its place once it is complete.

    Raises:
        BadValue: If `out` is there already and no empty folder.
        StoreError: If it cannot be written.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadValue(f"{out} is there already; choose a new place with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as draft:
            yield draft
            if out.is_dir():
                out.rmdir()  # so that the draft takes its place in one step
    except UnlearnError:
        raise
    except OSError as err:
        raise StoreError(
            f"cannot write {out}: {err.strerror or err}; choose another place with --out"
        ) from err


def _folder(path: Path, component: str, what: Any) -> bool:
    """Whether an entry of `model_index.json` is a component that lies in a folder of its own."""
    named = isinstance(what, list) and any(what) and Path(component).name == component
    return named and (path / component).is_dir()


def _shelf(folder: Path) -> dict[str, Path]:
    """The file of each tensor in a folder of one component; nothing where it has no weights."""
    entry = _entry(folder)
    if entry is None:
        pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLED]
        if pickled:
            raise BadWeights(
                f"{folder} has only pickled weights, {pickled[0]}, which are not read; save it again with save_pretrained(FOLDER, safe_serialization=True)"
            )
        return {}
    if entry.suffix != ".json":
        return {n: entry for n in _header(entry)[0]}
    shards = sorted(set(_json(entry).get("weight_map", {}).values()))
    if not all(Path(n).name == n and (folder / n).is_file() for n in shards):
        raise BadWeights(f"{entry} names files that are not beside it; fetch the model again")
    return {key: folder / n for n in shards for key in _header(folder / n)[0]}


def _entry(folder: Path) -> Path | None:
    """The file that `from_pretrained` reads first: the weights, or the list of their shards."""
    return next((path for name in ENTRIES if (path := folder / name).is_file()), None)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Entries of a safetensors file by name, and where its data begin."""
    try:
        with safe_open(path, framework="pt"):  # checks the file as a whole
            pass
        with path.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            found: dict[str, Any] = json.loads(f.read(size))
    except (SafetensorError, OSError) as err:
        raise BadWeights(f"cannot read weights from {path}: {err}; give a complete safetensors file") from err
    return {n: e for n, e in found.items() if n != "__metadata__"}, 8 + size


def _copy_file(source: Path, target: Path, values: Mapping[str, Tensor]) -> None:
    """Copies a file; where it holds safetensors, with some tensors overwritten."""
    shutil.copyfile(source, target)
    if not values:
        return
    entries, start = _header(target)
    with target.open("r+b") as f:
        for key, t in values.items():
            begin, end = entries[key]["data_offsets"]
            data = raw(t)
            if len(data) != end - begin:
                raise BadWeights(f"{key} of {source} wants {end - begin} bytes, got {len(data)}")
            f.seek(start + begin)
            f.write(data)


def _match(name: str, shelf: Mapping[str, Path]) -> str | None:
    """The one tensor of this name, else the one whose name differs by what is in front of it."""
    if name in shelf:
        return name
    close = [key for key in shelf if key.endswith(f".{name}") or name.endswith(f".{key}")]
    return close[0] if len(close) == 1 else None


def _saved_names(folder: Path) -> Mapping[str, str]:
    """What transformers calls the tensors of a loaded model when it saves them; nothing for other libraries."""
    config = folder / "config.json"
    return _renamed(config.read_text()) if config.is_file() else {}


@functools.lru_cache(maxsize=8)
def _renamed(config: str) -> Mapping[str, str]:
    hub.quiet()
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    said = json.loads(config)
    cls: Any = getattr(transformers, (said.get("architectures") or [""])[0], None)
    known = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not known:
        return {}
    with torch.device("meta"):
        model = cls(cls.config_class.from_dict(said))
    names = list(model.state_dict())
    back = revert_weight_conversion(model, {n: torch.tensor(i) for i, n in enumerate(names)})
    return {names[int(i)]: key for key, i in back.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as err:
        raise BadWeights(f"cannot read {path}: {err}; fetch the model again") from err
    return found
