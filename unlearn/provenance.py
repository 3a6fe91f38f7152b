"""Where a result comes from: hashes of the code that made it, and the environment it ran in."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
FOREIGN = {"pydantic", "torch", "typing_extensions", "transformers", "diffusers"}
PACKAGES = ("torch", "transformers", "diffusers", "numpy", "scipy", "scikit-learn", "safetensors")


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, as 64 hexadecimal digits.

    Example:
        >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def code_version(modules: Iterable[str]) -> str:
    """Hash of the source of these modules and of all they import from this package.

    Comments, docstrings and layout do not count, so a change of words voids no result.

    Args:
        modules: Dotted names below `unlearn`; a name outside it is a user's module and must be
            entered into the recipe by the hash of its file instead.
    """
    todo, seen = {m for m in modules if m.split(".")[0] == "unlearn"}, set[str]()
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= set(_source(name)[1]) - seen
    return digest({name: _source(name)[0] for name in sorted(seen)})[:16]


def code_of(*classes: type, modules: Iterable[str] = ()) -> list[str]:
    """Hashes of the code behind these classes, their bases and some modules of this package.

    A class from a user's file or package counts with the bytes of its file and with what that file imports
    from here; one from a notebook counts with its source, or with nothing that could ever be met again.
    """
    names, files = set(modules), set[str]()
    for base in {b for cls in classes for b in cls.__mro__}:
        top = base.__module__.partition(".")[0]
        if top == "unlearn":
            names.add(base.__module__)
        elif top not in FOREIGN and top not in sys.stdlib_module_names - {"__main__"}:
            source = _users_source(base)
            files.add(hashlib.sha256(source.encode()).hexdigest()[:16])
            found = {t for node in ast.walk(_parsed(source)) for t in _targets(node)}
            names |= {n if _exists(n) else n.rpartition(".")[0] for n in found if n.startswith("unlearn.")}
    return [code_version(n for n in names if n != "unlearn"), *sorted(files)]


def plugin_file(cls: type) -> str:
    """Name of the file that `--plugin` took this class from; nothing for a built-in or an installed package."""
    found = plugin_path(cls)
    return found.name if found else ""


def plugin_path(cls: type) -> Path | None:
    """That file, or None."""
    return Path(inspect.getfile(cls)) if cls.__module__.startswith("unlearn_file_") else None


def _users_source(cls: type) -> str:
    try:
        return Path(inspect.getfile(cls)).read_text(encoding="utf-8")
    except (OSError, TypeError):
        pass  # a notebook: there is no file, but there may be a source
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return uuid.uuid4().hex


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


@functools.cache
def _source(name: str) -> tuple[str, tuple[str, ...]]:
    """Hash of one module's code, and the modules of this package that it imports."""
    path = _file(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = {
        found
        for node in ast.walk(tree)
        for target in _targets(node)
        if (found := target if _exists(target) else target.rpartition(".")[0]).startswith("unlearn.")
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imports))


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [f"{node.module}.{a.name}" for a in node.names]
    return []


def _file(name: str) -> Path:
    path = ROOT.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(name: str) -> bool:
    return name.startswith("unlearn") and _file(name).exists()


def git_state() -> dict[str, Any]:
    """Commit of the checkout this package runs from and whether the package differs from it; empty outside one."""
    if not (ROOT.parent / ".git").exists():
        return {}
    run = functools.partial(subprocess.run, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    commit = run(["git", "rev-parse", "HEAD"])
    if commit.returncode:
        return {}
    dirty = run(["git", "status", "--porcelain", "--untracked-files=no", "--", ROOT.name]).stdout.strip()
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty)}


def environment() -> dict[str, Any]:
    """Versions of Python and the packages that matter, the platform, the commit."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "unlearn": importlib.metadata.version("unlearn-workbench"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": versions,
        **git_state(),
    }
