"""Weights in and out: read without running code, written back in the layout they came in."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from unlearn.errors import BadValue, BadWeights, Mismatch
from unlearn.ops.low_rank import factors
from unlearn.patch import Patch, load_tensors, make_lora_patch, make_patch, save_tensors
from unlearn.store import replacing
from unlearn.subject import Adapts, Subject

SAFER = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
BESIDE = (
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


@runtime_checkable
class SavesPretrained(Protocol):
    """A module of transformers or diffusers: it writes itself as a folder with its configuration."""

    def save_pretrained(self, save_directory: str, /) -> Any:
        """Writes `config.json` and safetensors into the folder."""
        ...


@runtime_checkable
class FromPipeline(Subject, Protocol):
    """A model that holds parts of a diffusers pipeline, by the names of their folders.

    Attributes:
        source: The pipeline's folder; nothing where there is none.
    """

    source: str


def edit_of(before: Subject, done: Subject, notes: Mapping[str, Any]) -> Patch:
    """What was changed in a pipeline: tensors, or low-rank factors where all that was added always acts alike.

    Args:
        before: The pipeline as it was.
        done: The same after an edit.
        notes: What the patch says of itself, as JSON.

    Raises:
        Mismatch: If something was added that no weight can hold.
    """
    adapters: list[Any] = done.adapters() if isinstance(done, Adapts) else []
    if adapters and all(getattr(a, "constant", False) for a in adapters):
        edited = make_patch(before.module, cast(Adapts, done).bare().module, notes)
        if not edited.names:
            return make_lora_patch(before.module, factors(adapters), notes)
    added = done.module.state_dict().keys() - before.module.state_dict().keys()
    if added:
        raise Mismatch(
            f"the method added {min(added)} ({len(added)} such tensors), which acts beside the pipeline's own weights and would be left out by plain diffusers; give --out FILE.safetensors"
        )
    return make_patch(before.module, done.module, notes)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file, or tensors from a torch file without running code.

    A `state_dict` inside a checkpoint is taken out, and the `module.` of data-parallel training dropped.

    Args:
        path: `.safetensors`, else a file of `torch.save`.

    Raises:
        BadWeights: If the file is missing or damaged, holds code, or holds anything but named tensors.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    if not path.is_file():
        raise BadWeights(f"no weights at {path}; give a .safetensors file, or .pt or .th with a state_dict")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise BadWeights(
            f"{path} is refused: it is damaged or holds pickled code, which could do anything when it is loaded; save the tensors alone, as in {SAFER}"
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as err:
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BadWeights(
            f"{path} is truncated or no torch file: {said}; fetch it again or use {SAFER}"
        ) from err
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise BadWeights(f"{path} holds {type(found).__name__}, not named tensors; use {SAFER}")
    return {str(n).removeprefix("module."): t for n, t in found.items()}


def load_into(module: nn.Module, path: Path) -> None:
    """Reads weights into a module of the same architecture, in place.

    Raises:
        BadWeights: If they cannot be read, or names or shapes differ, with the first that do.
    """
    found, wanted = read_weights(path), module.state_dict()
    ours = {n for n in wanted if not n.endswith("num_batches_tracked")}
    missing, strange = sorted(ours - set(found)), sorted(set(found) - set(wanted))
    wrong = [n for n in wanted if n in found and found[n].shape != wanted[n].shape]
    if wrong:
        n = wrong[0]
        raise BadWeights(
            f"{path}: {n} has shape {tuple(found[n].shape)}, the model wants {tuple(wanted[n].shape)} ({len(wrong)} such); choose the architecture and the classes that they were trained with"
        )
    if missing or strange:
        what = f"{missing[0]} is missing" if missing else f"{strange[0]} has no place"
        raise BadWeights(
            f"{path} does not fit {type(module).__name__}: {what} ({len(missing)} missing, {len(strange)} without a place); choose the architecture that they were trained with"
        )
    module.load_state_dict(found, strict=False)


def save_like(subject: Subject, out: Path, source: str = "") -> Path:
    """Writes a subject's weights in the layout that they came in.

    A transformers or diffusers model becomes a folder that `from_pretrained` reads, with what lay beside it
    (preprocessor, tokenizer); anything else, and everything where `out` ends in `.safetensors`, one file.

    Args:
        subject: The model.
        out: A folder or file.
        source: Folder or hub name that the model was loaded from, for the files beside it.

    Returns:
        `out`.
    """
    module = subject.module
    if not isinstance(module, SavesPretrained) and out.suffix != ".safetensors":
        raise BadValue(
            f"--out {out}: a plain module's weights are written as safetensors, never pickled; name a file that ends in .safetensors"
        )
    if out.suffix == ".safetensors" or not isinstance(module, SavesPretrained):
        out.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(out, module.state_dict(), format="pt")
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as draft:
        draft.mkdir()
        module.save_pretrained(str(draft))
        for name in BESIDE:
            found = _beside(source or _origin(module), name)
            if found is not None and not (draft / name).exists():
                shutil.copyfile(found, draft / name)
    return out


def _origin(module: object) -> str:
    """Where transformers and diffusers note that a module was loaded from."""
    return str(getattr(module, "name_or_path", ""))


def _beside(source: str, name: str) -> Path | None:
    """A file beside a model, in its folder or in the hub's local cache."""
    if not source:
        return None
    if Path(source).is_dir():
        return found if (found := Path(source) / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, name)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
