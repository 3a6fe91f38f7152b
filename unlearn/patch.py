"""An edit as a small file: new values or low-rank factors, and which weights they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn.errors import BadWeights, StoreError
from unlearn.store import replacing

State = Mapping[str, Tensor]
Notes = Mapping[str, Any]
VERSION = "1"  # of the format
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


def weights_hash(state: State) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(state):
        t = state[name].detach().cpu().contiguous()
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return total.hexdigest()


def plain(name: str) -> str:
    """The name that a weight has without the adapter of PEFT around it.

    Example:
        >>> plain("base_model.model.blocks.0.fc1.base_layer.weight")
        'blocks.0.fc1.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def changed(base: State, done: State) -> dict[str, Tensor]:
    """Tensors of `done` that are not bit-equal to those of `base`; an adapter around a weight does not change it."""
    before = {plain(n): t for n, t in base.items()}
    return {n: t for n, t in done.items() if plain(n) not in before or not torch.equal(t, before[plain(n)])}


def changed_share(base: nn.Module, done: nn.Module) -> float:
    """Share of the parameters whose value differs, 0 to 1."""
    before = {plain(n): p for n, p in base.named_parameters()}
    moved = total = 0
    for name, p in done.named_parameters():
        total += p.numel()
        old = before.get(plain(name))
        moved += int((p != old).sum()) if old is not None and old.shape == p.shape else p.numel()
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


@dataclass(frozen=True, slots=True)
class Base:
    """Which weights a patch belongs to: those of one component, known by content.

    Attributes:
        sha256: Hash of the set of its floating-point tensors, see `base_of`.
        weights: How many numbers these hold.
    """

    sha256: str
    weights: int


def base_of(tensors: Iterable[Tensor]) -> Base:
    """Recognises weights by the set of their values, whoever wrote them down.

    Names do not count, because libraries rename tensors when they load; neither do tied copies and integer
    buffers, which some writers drop; nor does half precision, whose values are the same in single precision.
    """
    found: dict[bytes, int] = {}
    for t in tensors:
        if t.is_floating_point():
            total = hashlib.sha256(f"{tuple(t.shape)}".encode())
            total.update(raw(t.float() if t.element_size() < 4 else t))
            found[total.digest()] = t.numel()
    return Base(hashlib.sha256(b"".join(sorted(found))).hexdigest(), sum(found.values()))


@dataclass(frozen=True, slots=True)
class Patch:
    """An edit of a model: what became of the weights that it changed, never what they were.

    Attributes:
        kind: `tensors` holds new values; `lora` holds for each weight W of shape (O, I, ...) two factors, and its
            new value is W + B A.
        base: What it belongs to, by the component's name in a diffusers pipeline; a model that is no pipeline is
            one component without a name.
        tensors: New values by `component.parameter`, or factors by `component.module.lora_A.weight` (R, I, ...) and
            `component.module.lora_B.weight` (O, R, ...), which is PEFT's layout.
        notes: Whatever was noted, as JSON: method, concept, settings.
    """

    kind: Literal["tensors", "lora"]
    base: Mapping[str, Base]
    tensors: State
    notes: Notes = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The weights that it changes, sorted."""
        if self.kind == "tensors":
            return sorted(self.tensors)
        return sorted(n.removesuffix(LORA_A) + ".weight" for n in self.tensors if n.endswith(LORA_A))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A and B of one weight."""
        module = name.removesuffix(".weight")
        return self.tensors[module + LORA_A], self.tensors[module + LORA_B]

    def value(self, name: str, old: Tensor) -> Tensor:
        """What a weight becomes, in at least single precision where it is computed.

        Raises:
            BadWeights: If the weight has another shape than the patch was made for.
        """
        if self.kind == "tensors":
            return same_shape(name, self.tensors[name], old)
        a, b = self.factors(name)
        product = (b.double().flatten(1) @ a.double().flatten(1)).view(len(b), *a.shape[1:])
        total = old.double() + same_shape(name, product, old)
        return total.to(torch.promote_types(old.dtype, torch.float32))

    def save(self, path: Path) -> None:
        """Writes it as one safetensors file."""
        base = {c: {"sha256": b.sha256, "weights": b.weights} for c, b in self.base.items()}
        save_tensors(
            path, self.tensors, unlearn_patch=VERSION, kind=self.kind, base=json.dumps(base, sort_keys=True),
            notes=json.dumps(self.notes, sort_keys=True),
        )  # fmt: skip


def raw(t: Tensor) -> memoryview:
    """The bytes of a tensor."""
    return t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def check_bases(wanted: Mapping[str, Base], found: Mapping[str, Base]) -> None:
    """Refuses a model that is not the one that a patch was made from.

    Args:
        wanted: The bases of the patch.
        found: What these components of the model are.

    Raises:
        BadWeights: Naming the first component that is another one.
    """
    for component, base in wanted.items():
        if found[component] != base:
            what = component or "model"
            raise BadWeights(
                f"the patch belongs to another base: its {what} is {base.sha256[:12]}, this {what} is {found[component].sha256[:12]}; give the model that the patch was made from"
            )


def read_patch(path: Path) -> Patch:
    """Reads a patch.

    Raises:
        BadWeights: If there is none, or it is damaged or of a format that this version does not know.
    """
    if not path.is_file():
        raise BadWeights(
            f"no patch at {path}; give a file that was saved as a patch, such as patch.safetensors"
        )
    tensors = load_tensors(path)
    with safe_open(path, framework="pt") as f:
        said = f.metadata() or {}
    version = said.get("unlearn_patch")
    if version is None:
        raise BadWeights(f"{path} is no patch: it holds weights, but not what they belong to; give a patch")
    if version != VERSION:
        raise BadWeights(
            f"{path} is a patch of format {version}, this version reads format {VERSION}; install the release of unlearn-workbench that wrote it"
        )
    try:
        kind, base = said["kind"], {c: Base(**b) for c, b in json.loads(said["base"]).items()}
        patch = Patch(kind, base, tensors, json.loads(said["notes"]))
        sound = _owned(patch) and (kind == "tensors" or (kind == "lora" and _paired(patch)))
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise BadWeights(f"{path} is a damaged patch: its header contradicts itself; fetch or make it again")
    return patch


def make_patch(base: nn.Module, done: nn.Module, notes: Notes | None = None) -> Patch:
    """What changed between two modules of one architecture, as new values.

    Args:
        base: Before; an `nn.ModuleDict` holds the components of a pipeline by diffusers' names, anything else is one
            model.
        done: After.
        notes: What is worth keeping, as JSON: method, concept, settings.
    """
    before = base.state_dict()
    tensors = changed(before, _untied(done.state_dict()))
    return Patch("tensors", _bases(base, tensors), tensors, notes or {})


def make_lora_patch(
    base: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]], notes: Notes | None = None
) -> Patch:
    """An edit given as low-rank factors.

    Args:
        base: The module that the factors belong to, as in `make_patch`.
        factors: A (R, I, ...) and B (O, R, ...) by the name of the layer whose weight becomes W + B A.
        notes: As in `make_patch`.
    """
    tensors = {
        n + end: t for n, pair in factors.items() for end, t in zip((LORA_A, LORA_B), pair, strict=True)
    }
    return Patch("lora", _bases(base, tensors), tensors, notes or {})


def save_patch(path: Path, base: nn.Module, done: nn.Module, notes: Notes | None = None) -> None:
    """Writes what changed between two modules of one architecture, see `make_patch`."""
    make_patch(base, done, notes).save(path)


def apply_patch(path: Path, module: nn.Module) -> None:
    """Applies a patch in place.

    Raises:
        BadWeights: If the module is not the one that the patch belongs to.
    """
    patch = read_patch(path)
    state = module.state_dict()
    check_bases(patch.base, {c: base_of(_within(c, state).values()) for c in patch.base})
    module.load_state_dict({n: patch.value(n, state[n]) for n in patch.names}, strict=False)


def same_shape(name: str, new: Tensor, old: Tensor) -> Tensor:
    """The new value of a weight.

    Raises:
        BadWeights: If its shape is not that of the old value.
    """
    if new.shape != old.shape:
        raise BadWeights(
            f"{name} has shape {tuple(old.shape)} in the model and {tuple(new.shape)} in the patch; apply it to the architecture that it was made from"
        )
    return new


def _bases(module: nn.Module, names: Iterable[str]) -> dict[str, Base]:
    """The components that hold these tensors."""
    pipeline, state = isinstance(module, nn.ModuleDict), module.state_dict()
    touched = sorted({n.partition(".")[0] if pipeline else "" for n in names})
    return {c: base_of(_within(c, state).values()) for c in touched}


def _within(component: str, state: State) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if not component or n.startswith(f"{component}.")}


def _untied(state: State) -> dict[str, Tensor]:
    """The tensors without further names of one storage, of which files keep the first."""
    first: dict[tuple[Any, ...], str] = {}
    return {n: t for n, t in state.items()
            if not t.numel() or first.setdefault((t.data_ptr(), t.shape, t.stride()), n) == n}  # fmt: skip


def _owned(patch: Patch) -> bool:
    """Whether every tensor lies in a component that the patch knows the base of."""
    return "" in patch.base or all(n.partition(".")[0] in patch.base for n in patch.tensors)


def _paired(patch: Patch) -> bool:
    """Whether the tensors are factors of equal rank, two for each weight."""
    names = patch.names
    return len(patch.tensors) == 2 * len(names) and all(
        a.dim() == b.dim() >= 2 and b[0, 0].numel() == 1 and a.shape[0] == b.shape[1]
        for a, b in map(patch.factors, names)
    )
