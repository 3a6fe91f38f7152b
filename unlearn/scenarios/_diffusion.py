"""Diffusion pipelines in diffusers' folder layout, by local folder or hub name."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from unlearn.errors import BadWeights
from unlearn.ops import hub
from unlearn.ops.checkpoints import open_checkpoint
from unlearn.subjects._pipelines import LAYOUTS, Drawing, Loaded, subject_of, unsupported

__all__ = ["Drawing", "Loaded", "load_pipeline"]

BESIDE = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that draw nothing; a copy of the folder keeps them."""
INDEX = "model_index.json"
GIVE = "give a folder that pipe.save_pretrained wrote, with safetensors, or a hub name"


def load_pipeline(where: str, steps: int = 0, guidance: float = 0.0, size: int = 0) -> Loaded:
    """Reads a text-to-image pipeline of one of `LAYOUTS`, in single precision.

    UNets are sampled by DDIM on the betas of the pipeline's scheduler, whatever that is, and flows by Euler on its
    shifted noise levels: with those schedulers, plain diffusers draws the same from the same latents.

    Args:
        where: Folder that `save_pretrained` wrote, or a hub name.
        steps: Sampling steps; 0 for the pipeline's own default, here and below.
        guidance: Scale of guidance in samples.
        size: Side of an image, in pixels.

    Raises:
        BadWeights: If there is none, it is of another class, its weights are pickled, or it cannot be read.
    """
    hub.quiet()
    import diffusers

    folder = _folder(where)
    index = _index(folder / INDEX, where)
    try:
        open_checkpoint(folder)
    except BadWeights as err:
        raise BadWeights(f"no text-to-image pipeline at {where!r}: {err}; {GIVE}") from err
    absent: dict[str, Any] = {name: None for name in BESIDE if name in index}
    absent |= {"requires_safety_checker": False} if "requires_safety_checker" in index else {}
    try:
        cls = getattr(diffusers, index["_class_name"])
        pipe = cls.from_pretrained(str(folder), use_safetensors=True, **absent)
    except Exception as err:  # diffusers raises whatever its readers raise
        raise BadWeights(f"no text-to-image pipeline at {where!r}: {_said(err)}; {GIVE}") from err
    return subject_of(pipe.to(dtype=torch.float32), Drawing(steps, guidance, size), str(folder))


def _folder(where: str) -> Path:
    """The folder of this name, or where the hub's client keeps what it fetched.

    Raises:
        BadWeights: If there is neither.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", where) or where.startswith("."):
        raise BadWeights(f"no text-to-image pipeline at {where!r}: there is no such folder; {GIVE}")
    from diffusers import DiffusionPipeline

    try:
        with warnings.catch_warnings():  # the hub's client and diffusers disagree on options
            warnings.simplefilter("ignore")
            name = DiffusionPipeline.load_config(where).get("_class_name")
            if name in LAYOUTS:  # or some gigabytes would come for nothing
                return Path(DiffusionPipeline.download(where, use_safetensors=True))
    except Exception as err:
        reason = (
            "the hub cannot be reached and its cache has none of this name" if _offline(err) else _said(err)
        )
        raise BadWeights(
            f"no text-to-image pipeline at {where!r}: there is no such folder here, and {reason}; {GIVE}"
        ) from err
    raise BadWeights(f"{where!r}: {unsupported(str(name))}")


def _index(path: Path, where: str) -> dict[str, Any]:
    """What a pipeline's folder says it holds.

    Raises:
        BadWeights: If it says nothing, or another class than those supported.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        name = str(found["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BadWeights(
            f"no text-to-image pipeline at {where!r}: the folder has no {INDEX} that could be read; {GIVE}"
        ) from err
    if name not in LAYOUTS:
        raise BadWeights(f"{where!r}: {unsupported(name)}")
    return found


def _offline(err: BaseException | None) -> bool:
    """Whether an error comes from a hub that is out of reach."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while err is not None:
        if isinstance(err, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return True
        err = err.__cause__ or err.__context__
    return False


def _said(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
