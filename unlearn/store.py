"""Results by content: the address of a result is the hash of what produced it.

A result is a folder. It is written as a draft and renamed, so a folder that exists is complete; a lock on
each address lets two processes share one store without doing the same work twice.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unlearn.errors import StoreError, UnknownName, UnlearnError
from unlearn.provenance import digest, file_digest

KINDS = ("trained", "unlearned", "outputs", "report", "measured", "judge")
STALE_DRAFT = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished result.

    Attributes:
        kind: One of `KINDS`.
        address: 32 hexadecimal digits.
        path: Its folder.
    """

    kind: str
    address: str
    path: Path

    @property
    def recipe(self) -> dict[str, Any]:
        """What produced it."""
        return read_json(self.path / "recipe.json")

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())


class Store:
    """A folder of finished results.

    Args:
        root: Where it lies; made when the first result is written.

    Raises:
        StoreError: From every verb, in one line, when the folder cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, recipe: dict[str, Any]) -> Path | None:
        """The folder of a finished result, or None."""
        path = self._place(kind, address(recipe))
        return path if path.is_dir() else None

    def build(
        self, kind: str, recipe: dict[str, Any], make: Callable[[Path], None], replace: bool = False
    ) -> Path:
        """The folder of a result, made now if it is not there.

        Args:
            kind: One of `KINDS`.
            recipe: What produces it, as JSON; its hash is the address.
            make: Writes the result's files into the empty folder it is given. When it raises, nothing
                is published.
            replace: Whether to make it even if it is there; the old one stays until the new one is complete.
        """
        final = self._place(kind, address(recipe))
        if final.is_dir() and not replace:
            return final
        with self._guard("write"), self._lock(final):
            if final.is_dir() and not replace:
                return final
            draft = self.root / f".draft-{uuid.uuid4().hex}"
            draft.mkdir(parents=True)
            try:
                make(draft)
                (draft / "recipe.json").write_text(json.dumps(recipe, indent=1, sort_keys=True))
                sums = {p.name: file_digest(p) for p in sorted(draft.iterdir())}
                (draft / "SHA256").write_text(json.dumps(sums, indent=1))
                _to_disk(draft)
                final.parent.mkdir(parents=True, exist_ok=True)
                if final.is_dir():
                    self.remove(final)
                draft.rename(final)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return final

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Every finished result, oldest first within a kind."""
        for k in KINDS if kind is None else (kind,):
            folder = self.root / k
            if folder.is_dir():
                with self._guard("read"):
                    found = sorted(
                        (p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime
                    )
                yield from (Entry(k, p.name, p) for p in found)

    def named(self, kind: str, prefix: str) -> Entry:
        """The one result whose address begins with `prefix`.

        Raises:
            UnknownName: If none or several do.
        """
        found = [e for e in self.entries(kind) if e.address.startswith(prefix)]
        if len(found) != 1:
            count = "no" if not found else str(len(found))
            raise UnknownName(
                f"{count} {kind} with an address that begins with {prefix!r} in {self.root}; `unlearn store ls` lists them"
            )
        return found[0]

    def damage(self, entry: Entry) -> list[str]:
        """Names of the files that are missing or no longer what was published."""
        sums_file = entry.path / "SHA256"
        if not sums_file.is_file():
            return ["SHA256"]
        sums = read_json(sums_file)
        return [
            n for n, s in sums.items() if not (entry.path / n).is_file() or file_digest(entry.path / n) != s
        ]

    def drafts(self) -> list[Path]:
        """Folders that an interrupted process left and nobody has touched for a day."""
        old = time.time() - STALE_DRAFT
        return [p for p in self.root.glob(".draft-*") if p.stat().st_mtime < old]

    def remove(self, path: Path) -> None:
        """Deletes one result or draft: first out of sight, then for good."""
        with self._guard("write"):
            trash = self.root / f".draft-{uuid.uuid4().hex}"
            path.rename(trash)
            shutil.rmtree(trash)

    def _place(self, kind: str, addr: str) -> Path:
        return self.root / kind / addr

    @contextmanager
    def _lock(self, final: Path) -> Iterator[None]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{final.parent.name}-{final.name}.lock"):
            yield

    @contextmanager
    def _guard(self, verb: str) -> Iterator[None]:
        try:
            yield
        except UnlearnError:
            raise
        except OSError as err:
            where = f"{self.root}: {os.strerror(err.errno) if err.errno else err}"
            raise StoreError(
                f"cannot {verb} the store at {where}; free space or choose another folder with --store"
            ) from err


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lends a place beside `path` to write a file or a folder, which takes its place at the end of the block.

    What `path` held stays if the block fails; of a folder that is there, files of other names stay in any case.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # a device or a pipe
        return
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        if draft.is_dir() and path.is_dir():
            for made in draft.iterdir():
                made.replace(path / made.name)
        else:
            draft.replace(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """Has the files of a folder really written, so that a name never comes before its content."""
    for path in folder.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())


def address(recipe: dict[str, Any]) -> str:
    """The address of a recipe: the first 32 digits of the SHA-256 of its canonical JSON."""
    return digest(recipe)[:32]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        StoreError: If the file is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise StoreError(f"cannot read {path}: {err}; `unlearn store verify` finds damaged results") from err
    return found
