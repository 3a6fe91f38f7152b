"""Names to plugins: one file for each built-in, entry points and `--plugin` files for the rest.

Listing reads source code and imports nothing, so tables of methods appear at once; a plugin is imported
when it is asked for.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unlearn.errors import UnknownName, UnlearnError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint  # its import costs more than a listing

T = TypeVar("T")
ROOT = Path(__file__).parent
PROTOCOLS = ("subject", "deletable", "filling")
"""Modules that hold the subject protocols, those that others build on first."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a table says of one plugin.

    Attributes:
        name: Registered name, with hyphens.
        summary: First line of the class's docstring.
        doc: The whole docstring.
        needs: Name of the subject protocol that the plugin is written against, or nothing.
        uses: Names of the data it declares to read.
        origin: `built-in`, the distribution or the file it comes from.
    """

    name: str
    summary: str
    doc: str = ""
    needs: str = ""
    uses: tuple[str, ...] = ()
    origin: str = "built-in"

    @property
    def reference(self) -> str:
        """The lines of the docstring's References block, joined."""
        return section(self.doc, "References")

    @property
    def reconstructed(self) -> str:
        """What it was rebuilt from where neither paper nor code could be followed; nothing elsewhere."""
        return reconstruction(self.doc)


def reconstruction(doc: str) -> str:
    r"""The paragraph of a docstring that begins with RECONSTRUCTED, on one line.

    Example:
        >>> reconstruction("Does it.\n\nRECONSTRUCTED from the\nabstract.\n\nMore.")
        'RECONSTRUCTED from the abstract.'
    """
    paragraphs = inspect.cleandoc(doc).split("\n\n")
    return next((" ".join(p.split()) for p in paragraphs if p.startswith("RECONSTRUCTED")), "")


def section(doc: str, title: str) -> str:
    r"""The text of one indented block of a docstring, on one line.

    Example:
        >>> section("Does it.\n\nReferences:\n    Me, 2024.\n\nMore.", "References")
        'Me, 2024.'
    """
    lines = inspect.cleandoc(doc).splitlines()
    if f"{title}:" not in lines:
        return ""
    block: list[str] = []
    for line in lines[lines.index(f"{title}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        block.append(line.strip())
    return " ".join(block).strip()


class Registry(Generic[T]):
    """Finds plugins of one kind by name and imports one only when it is asked for.

    Args:
        kind: Word for messages: method, metric, subject, scenario.
        package: Package whose files are the built-ins; `bad_teacher.py` is `bad-teacher`.
        group: Entry-point group of installed plugins.
        verb: Function whose `subject` annotation names the needed protocol.
    """

    def __init__(self, kind: str, package: str, group: str, verb: str = "") -> None:
        self.kind, self.package, self.group, self.verb = kind, package, group, verb
        self._live: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator that gives a plugin its name.

        Raises:
            UnlearnError: If another plugin has the name.
        """

        def add(cls: Any) -> Any:
            taken = self._live.get(name)
            built_in = name in self._files() and cls.__module__ != f"{self.package}.{name.replace('-', '_')}"
            if built_in or (taken is not None and _home(taken) != _home(cls)):
                owner = "a built-in" if built_in else f"{taken.__module__}.{taken.__qualname__}"  # type: ignore[union-attr]
                raise UnlearnError(
                    f"{self.kind} {name!r} is taken by {owner}; register {cls.__qualname__} under another name"
                )
            cls.name = name
            self._live[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Every name, sorted, without importing a plugin."""
        return sorted({*self._files(), *self._live, *(e.name for e in self._entries())})

    def get(self, name: str) -> type[T]:
        """The class of this name, imported now if it was not.

        Raises:
            UnknownName: With the nearest names.
            UnlearnError: If an installed plugin cannot be imported.
        """
        if name not in self._live:
            if name in self._files():
                importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            for entry in self._entries():
                if entry.name == name:
                    self._load(entry)
        if name not in self._live:
            raise unknown(self.kind, name, self.names())
        return self._live[name]

    def registered(self) -> list[type[T]]:
        """Classes that are imported by now."""
        return list(self._live.values())

    def listing(self, name: str) -> Listing:
        """What a table says of a plugin, read from its source where it is not imported."""
        if (path := self._files().get(name)) is not None:
            return _read(path, name, self.verb)
        if name in self._live:
            return self._describe(self._live[name], name)
        for entry in self._entries():
            if entry.name == name:
                dist = entry.dist.name if entry.dist else "?"
                spec = importlib.util.find_spec(entry.module)
                found = (
                    _read(Path(spec.origin), name, self.verb) if spec and spec.origin else Listing(name, "")
                )
                return Listing(name, found.summary, found.doc, found.needs, found.uses, dist)
        raise unknown(self.kind, name, self.names())

    def listings(self) -> list[Listing]:
        """Every plugin's listing, sorted by name."""
        return [self.listing(n) for n in self.names()]

    def _describe(self, cls: type, name: str) -> Listing:
        doc = inspect.getdoc(cls) or ""
        hint = (
            getattr(getattr(cls, self.verb, None), "__annotations__", {}).get("subject", "")
            if self.verb
            else ""
        )
        needs = hint if isinstance(hint, str) else hint.__name__
        uses = tuple(sorted(getattr(cls, "uses", ())))
        return Listing(name, doc.partition("\n")[0], doc, needs, uses, inspect.getfile(cls))

    def _files(self) -> dict[str, Path]:
        folder = ROOT.joinpath(*self.package.split(".")[1:])
        return {p.stem.replace("_", "-"): p for p in sorted(folder.glob("[a-z]*.py"))}

    def _entries(self) -> Iterable[EntryPoint]:
        found: Iterable[EntryPoint] = _entry_points().select(group=self.group)
        return found

    def _load(self, entry: EntryPoint) -> None:
        try:
            cls = entry.load()
        except ImportError as err:
            owner = entry.dist.name if entry.dist else entry.module
            raise UnlearnError(f"{self.kind} {entry.name!r} of {owner} cannot be imported: {err}") from err
        if self._live.get(entry.name) is None:
            self.register(entry.name)(cls)


def _home(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


@functools.cache
def _entry_points() -> Any:
    """All entry points of all distributions, found once: every look costs milliseconds."""
    from importlib.metadata import entry_points

    return entry_points()


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that nothing has: it suggests the nearest and lists what there is.

    Example:
        >>> str(unknown("method", "sallun", ["salun", "ssd"]))
        "no method called 'sallun'; did you mean 'salun'? There are: salun, ssd"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UnknownName(f"no {kind} called {name!r}{hint} There are: {', '.join(known)}")


@functools.cache
def _read(path: Path, name: str, verb: str) -> Listing:
    """Reads the listing of the class registered as `name` in a source file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    registered = [c for c in classes if any(_registers(d, name) for d in c.decorator_list)]
    for cls in registered or classes[:1]:
        doc = ast.get_docstring(cls) or ""
        return Listing(name, doc.partition("\n")[0], doc, _needs(cls, verb), _uses(cls))
    doc = ast.get_docstring(tree) or ""
    return Listing(name, doc.partition("\n")[0], doc)


def _registers(node: ast.expr, name: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "register"
        and any(isinstance(a, ast.Constant) and a.value == name for a in node.args)
    )


def _needs(cls: ast.ClassDef, verb: str) -> str:
    if (value := _value(cls, "needs")) is not None:
        return ast.unparse(value)
    found = (n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == verb)
    arguments = (a for n in found for a in n.args.args if a.arg == "subject" and a.annotation)
    return next((ast.unparse(a.annotation) for a in arguments if a.annotation), "")


def _uses(cls: ast.ClassDef) -> tuple[str, ...]:
    value = _value(cls, "uses")
    if value is None:
        return ("forget", "retain")
    return tuple(sorted(str(n.value) for n in ast.walk(value) if isinstance(n, ast.Constant)))


def _value(cls: ast.ClassDef, name: str) -> ast.expr | None:
    """What a class body assigns to a name, with or without an annotation."""
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return getattr(node, "value", None)
    return None


@functools.cache
def protocols() -> dict[str, frozenset[str]]:
    """The members of each subject protocol, read from the source of `PROTOCOLS` without importing torch."""
    found: dict[str, frozenset[str]] = {}
    for module in PROTOCOLS:
        for node in ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = [found.get(ast.unparse(b), frozenset()) for b in node.bases]
                found[node.name] = _members(node).union(*bases)
    return found


def protocol(name: str) -> Any:
    """The subject protocol of this name, imported now if it was not."""
    modules = (importlib.import_module(f"unlearn.{m}") for m in PROTOCOLS)
    return next(vars(m)[name] for m in modules if name in vars(m))


@functools.cache
def offers(listing: str) -> frozenset[str]:
    """Names of the protocols that a built-in subject offers, read from its source."""
    path = ROOT / "subjects" / f"{listing.replace('-', '_')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    cls = next(
        n
        for n in tree.body
        if isinstance(n, ast.ClassDef) and any(_registers(d, listing) for d in n.decorator_list)
    )
    members = _members(cls)
    return frozenset(name for name, needed in protocols().items() if needed <= members)


def _members(cls: ast.ClassDef) -> frozenset[str]:
    defs = {n.name for n in cls.body if isinstance(n, ast.FunctionDef)}
    fields = {
        n.target.id for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    return frozenset(m for m in defs | fields if not m.startswith("_"))


def load_file(path: Path) -> Any:
    """Imports a plugin or model file by path, once for each content; it finds modules that lie beside it.

    Raises:
        UnlearnError: If there is no such file, or it raises while it is imported.
    """
    path = path.resolve()
    if not path.is_file():
        raise UnlearnError(f"no Python file at {path}; give the path of a file such as my_plugin.py")
    name = f"unlearn_file_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnlearnError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that nothing is shadowed
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        if isinstance(err, UnlearnError):
            raise
        said = " ".join(str(err).split())
        raise UnlearnError(f"{path} cannot be imported: {type(err).__name__}: {said}") from err
    return module


methods: Registry[Any] = Registry("method", "unlearn.methods", "unlearn.methods", "unlearn")
metrics: Registry[Any] = Registry("metric", "unlearn.evals", "unlearn.metrics", "measure")
attacks: Registry[Any] = Registry("attack", "unlearn.attacks", "unlearn.attacks", "attempts")
subjects: Registry[Any] = Registry("subject", "unlearn.subjects", "unlearn.subjects")
scenarios: Registry[Any] = Registry("scenario", "unlearn.scenarios", "unlearn.scenarios")


def fitting(subject: str) -> list[str]:
    """Names of the methods that fit a built-in subject, such as `classifier`."""
    offered = offers(subject)
    return [n for n in methods.names() if methods.listing(n).needs in offered]
