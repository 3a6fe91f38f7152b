"""An edit as the tensors that it changed, with the hash of the weights it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn.errors import BadWeights, StoreError
from unlearn.store import replacing

State = Mapping[str, Tensor]


def weights_hash(state: State) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().cpu().contiguous()
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return total.hexdigest()


def changed(base: State, done: State) -> dict[str, Tensor]:
    """Tensors of `done` that are not bit-equal to those of `base`."""
    return {n: t for n, t in done.items() if n not in base or not torch.equal(t, base[n])}


def changed_share(base: nn.Module, done: nn.Module) -> float:
    """Share of the parameters whose value differs, 0 to 1."""
    before = dict(base.named_parameters())
    moved = total = 0
    for name, p in done.named_parameters():
        total += p.numel()
        same = name in before and before[name].shape == p.shape
        moved += int((p != before[name]).sum()) if same else p.numel()
    return moved / max(total, 1)


def save_tensors(path: Path, state: State, **notes: str) -> None:
    """Writes tensors as safetensors with string notes; no pickle is ever written."""
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in state.items()}
    try:
        with replacing(path) as draft:
            save_file(tensors, draft, metadata=notes or None)
    except SafetensorError as err:
        raise StoreError(f"cannot write {path}: {err}; free space or choose another place") from err


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        BadWeights: If it is missing, truncated or something else.
    """
    try:
        with safe_open(path, framework="pt") as f:
            return {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as err:
        raise BadWeights(f"cannot read weights from {path}: {err}; give a complete safetensors file") from err


def save_patch(path: Path, base: nn.Module, done: nn.Module) -> None:
    """Writes what changed between two modules of one architecture, with the base's hash."""
    before = base.state_dict()
    tensors = changed(before, done.state_dict())
    save_tensors(path, tensors, base=weights_hash(before), names=json.dumps(sorted(tensors)))


def apply_patch(path: Path, module: nn.Module) -> None:
    """Applies a patch in place.

    Raises:
        BadWeights: If the module is not the one that the patch belongs to.
    """
    with safe_open(path, framework="pt") as f:
        wanted = (f.metadata() or {}).get("base", "")
    found = weights_hash(module.state_dict())
    if wanted != found:
        raise BadWeights(
            f"{path} belongs to weights {wanted[:12]}, these are {found[:12]}; apply it to the model it was made from"
        )
    module.load_state_dict(load_tensors(path), strict=False)
