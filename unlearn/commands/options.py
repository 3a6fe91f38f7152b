"""Typed command-line options from declared hyper-parameters."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from unlearn.errors import BadValue, UnlearnError

if TYPE_CHECKING:
    from unlearn.knobs import Knob  # pydantic would double the time of --help

PLAIN = (int, float, str, bool)
FLAGS = {"--json", "--fresh", "--show-forgotten", "--help"}


def words_of(argv: Sequence[str], default: str = "") -> list[str]:
    """Names of the methods that a command asks for, after loading the files that `--plugin` names.

    Args:
        argv: The command and its words.
        default: Method of a command that takes it as `--method`; nothing for one that takes methods as words.
    """
    from unlearn.registry import load_file, methods

    pairs = list(itertools.pairwise(argv))
    for path in _given(argv, "--plugin"):
        load_file(Path(path))
    if default:
        named = [default, *_given(argv, "--method")][-1]
        return [named] if named in methods.names() else []
    known = set(methods.names()) & set(argv)
    flags = FLAGS | {
        _flag(k.name) for cls in _classes(sorted(known)).values() for k in cls.knobs() if k.type is bool
    }
    return [
        w
        for before, w in pairs
        if w in known and (not before.startswith("--") or "=" in before or before in flags)
    ]


def _given(argv: Sequence[str], flag: str) -> list[str]:
    """Values of an option, in order, written as `--flag value` or `--flag=value`."""
    pairs = itertools.pairwise([*argv, ""])
    return [b if a == flag else a.partition("=")[2] for a, b in pairs if a.partition("=")[0] == flag]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def with_method_options(function: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    """The function with one more option for every hyper-parameter of these methods.

    With one method its options go by their own names (`--alpha`), with several by the method's (`--ssd.alpha`).
    The values that were given arrive as `values={"ssd": {"alpha": 5.0}}`.
    """
    extra: dict[str, tuple[str, Knob]] = {}
    hints = get_type_hints(function, include_extras=True)
    given = (p for p in inspect.signature(function).parameters.values() if p.name != "values")
    parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in given]
    taken = {p.name for p in parameters}
    for name, cls in _classes(names).items():
        for k in cls.knobs():
            dest = f"{name.replace('-', '_')}__{k.name}"
            flag = _flag(k.name)[2:]
            plain = len(set(names)) == 1 and k.name not in taken
            extra[dest] = (name, k)
            parameters.append(
                _parameter(
                    dest, f"--{flag}" if plain else f"--{name}.{flag}", k, f"Hyper-parameters of {name}"
                )
            )

    def call(**given: Any) -> None:
        values: dict[str, dict[str, Any]] = {n: {} for n in names}
        for dest, (name, k) in extra.items():
            if (value := given.pop(dest)) is not None:
                values[name][k.name] = _convert(k, value)
        function(**given, values=values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__, call.__name__ = function.__doc__, function.__name__
    return call


def _classes(names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {}
    from unlearn.registry import methods

    return {n: methods.get(n) for n in names}


def _parameter(dest: str, flag: str, k: Knob, panel: str) -> inspect.Parameter:
    kind: Any = k.type if k.type in PLAIN else str
    if get_origin(k.type) is Literal and all(isinstance(c, str) for c in get_args(k.type)):
        kind = k.type
    allowed = f" {k.allowed}." if k.bounds else ""
    note = f"{k.doc[:1].upper()}{k.doc[1:]}.{allowed} Default {k.default}."
    flags = (f"{flag}/--no-{flag[2:]}",) if k.type is bool else (flag,)
    option = typer.Option(*flags, help=note, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        dest, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _convert(k: Knob, value: Any) -> Any:
    """A value as the field wants it: `5,8,9` becomes a tuple, `none` nothing."""
    if get_origin(k.type) is not tuple and k.type not in PLAIN and isinstance(value, str):
        return _optional(k, value)
    if get_origin(k.type) is tuple:
        of = get_args(k.type)[0]
        try:
            return tuple(of(v) for v in value.split(",") if v)
        except ValueError:
            raise BadValue(f"{k.name} must be {of.__name__}s joined by commas, got {value!r}") from None
    return value


def _optional(k: Knob, value: str) -> Any:
    if value.lower() == "none":
        return None
    for kind in get_args(k.type):
        if kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                raise BadValue(f"{k.name} must be {kind.__name__} or none, got {value!r}") from None
    return value


def split_names(text: str) -> list[str]:
    """Names joined by commas."""
    return [n.strip() for n in text.split(",") if n.strip()]


def chosen_options(options: Mapping[str, Any], scenario: type[Any]) -> dict[str, Any]:
    """Scenario options that were given.

    Raises:
        UnlearnError: If the scenario has no such option.
    """
    given = {k: v for k, v in options.items() if v is not None}
    known = {k.name for k in scenario.knobs()}
    for name in given:
        if name not in known:
            raise UnlearnError(
                f"scenario {scenario.name!r} has no option {name}; it has: {', '.join(sorted(known - {'request'})) or 'none'}"
            )
    return given
