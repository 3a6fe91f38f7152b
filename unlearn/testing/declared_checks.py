"""Checks of a plugin class as it is written: fields, bounds, docstring, name, listing."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from unlearn.errors import BadValue
from unlearn.knobs import Declared, Knob
from unlearn.registry import Registry, reconstruction, section
from unlearn.testing.verdicts import Named, demand


def declared_checks(cls: type[Declared], registry: Registry[Any], *, needs_default: bool = True) -> Named:
    """Checks that every declared plugin must pass, whatever its kind.

    Args:
        cls: The class.
        registry: Where its name is registered.
        needs_default: Whether it must be constructible without arguments.
    """
    yield "frozen", partial(check_frozen, cls)
    if needs_default:
        yield "defaults", partial(check_defaults, cls)
        yield "json", partial(check_json, cls)
        yield "refuses", partial(check_refuses, cls)
    yield "documented", partial(check_documented, cls)
    yield "typed", partial(check_typed, cls)
    yield "bounded", partial(check_bounded, cls)
    yield "search-range", partial(check_search, cls)
    yield "summary", partial(check_summary, cls)
    yield "registered", partial(check_registered, cls, registry)
    yield "file-name", partial(check_file_name, cls, registry)
    yield "listing", partial(check_listing, cls, registry)


def check_frozen(cls: type[Declared]) -> None:
    """A plugin is a value: it keeps no state between calls."""
    demand(
        issubclass(cls, Declared),
        f"{cls.__name__} is no declared value; derive it from the kind's base class",
    )
    demand(
        cls.model_config.get("frozen") is True and cls.model_config.get("extra") == "forbid",
        f"{cls.__name__} can be changed after it was made; leave model_config as it is: frozen, extra='forbid'",
    )


def check_defaults(cls: type[Declared]) -> None:
    """Every field has a default that its own bounds accept."""
    try:
        value = cls()
    except BadValue as err:
        raise AssertionError(
            f"{cls.__name__}() is refused: {err}; give every knob a default inside its bounds"
        ) from None
    for k in cls.knobs():
        try:
            cls(**{k.name: getattr(value, k.name)})
        except BadValue as err:
            raise AssertionError(f"{err}; choose a default that the bounds accept") from None


def check_json(cls: type[Declared]) -> None:
    """The value survives JSON, so a report can rebuild it."""
    value = cls()
    try:
        again = cls.from_dict(json.loads(json.dumps(value.to_dict())))
    except (BadValue, TypeError, ValueError) as err:
        raise AssertionError(
            f"{cls.__name__} does not survive JSON: {err}; use numbers, strings, bools, tuples"
        ) from None
    demand(again == value, f"{cls.__name__} comes back from JSON as {again!r} instead of {value!r}")


def check_documented(cls: type[Declared]) -> None:
    """Every field says what it means."""
    for k in cls.knobs():
        demand(
            bool(k.doc.strip()),
            f"{cls.__name__}.{k.name} has no description; declare it with knob(default, 'what it means')",
        )


def check_typed(cls: type[Declared]) -> None:
    """Every field has a type of its own: a number, a bool, a string, a choice, or a tuple of them."""
    for k in cls.knobs():
        demand(
            k.type is not Any and k.type is not object,
            f"{cls.__name__}.{k.name} has no proper type; annotate it with int, float, bool, str, Literal or tuple",
        )


def check_bounded(cls: type[Declared]) -> None:
    """Every number has a bound."""
    for k in cls.knobs():
        if is_number(k):
            demand(bool(k.bounds), f"{cls.__name__}.{k.name} has no bound; add gt, ge, lt or le to its knob")


def check_refuses(cls: type[Declared]) -> None:
    """Each value outside the bounds, of the wrong type or of an unknown name is refused in one plain line."""
    for k in cls.knobs():
        for bad in outside(k):
            said = _refusal(cls, k.name, bad)
            demand(
                k.name in said and k.allowed in said and repr(bad) in said,
                f"{cls.__name__}({k.name}={bad!r}) is refused with {said!r}, which does not say field, allowed values and what was given",
            )
        _refusal(cls, k.name, object())
    _refusal(cls, "no_such_field", 1)


def check_search(cls: type[Declared]) -> None:
    """A search range is a proper interval whose ends the field accepts."""
    for k in cls.knobs():
        if k.search is None:
            continue
        low, high = k.search
        demand(
            low < high,
            f"{cls.__name__}.{k.name} has the search range {k.search}; its ends are in the wrong order",
        )
        for end in (low, high):
            broken = [b for b, limit in k.bounds.items() if not _inside(b, end, limit)]
            demand(
                not broken,
                f"{cls.__name__}.{k.name} has the search range {k.search}, but must be {k.allowed}",
            )


def check_summary(cls: type[Any]) -> None:
    """The docstring's first line is a sentence that a table can show."""
    doc = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    first, _, rest = doc.partition("\n")
    demand(
        bool(first), f"{cls.__name__} has no docstring; say in its first line what it does, in plain words"
    )
    demand(
        first.endswith(".") and len(first) <= 100 and not rest.split("\n")[0].strip(),
        f"{cls.__name__}'s first docstring line must be one sentence of at most 100 characters, with an empty line after it: {first!r}",
    )


def check_reference(cls: type[Any]) -> None:
    """The docstring names its source."""
    demand(
        bool(section(inspect.getdoc(cls) or "", "References")),
        f"{cls.__name__}'s docstring has no References block; add one: authors, year, title, arXiv id",
    )


def check_reconstructed(cls: type[Any]) -> None:
    """What was rebuilt without paper or code says so in its summary, and from what in a paragraph."""
    doc = inspect.getdoc(cls) or ""
    demand(
        bool(reconstruction(doc)) == ("(reconstructed)" in doc.partition("\n")[0]),
        f"{cls.__name__} says only half of it; write (reconstructed) into the first line of its docstring and RECONSTRUCTED from what, in a paragraph",
    )


def check_registered(cls: type[Any], registry: Registry[Any]) -> None:
    """The class is found by its name."""
    name = getattr(cls, "name", "")
    demand(
        bool(name) and name in registry.names() and registry.get(name) is cls,
        f'{cls.__name__} is not registered; decorate it with @{registry.kind}s.register("its-name")',
    )


def check_file_name(cls: type[Any], registry: Registry[Any]) -> None:
    """A built-in's file has its name, so that it is found without importing all."""
    if cls.__module__.startswith(f"{registry.package}."):
        stem = Path(inspect.getfile(cls)).stem
        demand(
            stem.replace("_", "-") == cls.name,
            f"{registry.kind} {cls.name!r} lives in {stem}.py; name the file {cls.name.replace('-', '_')}.py",
        )


def check_listing(cls: type[Any], registry: Registry[Any]) -> None:
    """What tables read from the source is what the imported class says."""
    listing = registry.listing(cls.name)
    first = (inspect.getdoc(cls) or "").partition("\n")[0]
    demand(
        listing.summary == first,
        f"the listing of {cls.name!r} says {listing.summary!r}, its class {first!r}; register one class per file",
    )


def is_number(k: Knob) -> bool:
    """Whether a field holds a number, or a number or None."""
    kinds = get_args(k.type) if get_origin(k.type) in (Union, types.UnionType) else (k.type,)
    return bool({int, float} & set(kinds))


def outside(k: Knob) -> Iterator[Any]:
    """Values just outside each bound of a field, or no choice of it."""
    whole = k.type is int
    for bound, limit in k.bounds.items():
        value = {"gt": limit, "lt": limit, "ge": limit - 1, "le": limit + 1}[bound]
        yield int(value) if whole else float(value)
    if k.choices:
        yield "no-such-choice"


def _inside(bound: str, value: float, limit: float) -> bool:
    return {"gt": value > limit, "ge": value >= limit, "lt": value < limit, "le": value <= limit}[bound]


def _refusal(cls: type[Declared], name: str, bad: Any) -> str:
    """The one line with which a value is refused."""
    others: dict[str, Any] = {n: f.get_default() for n, f in cls.model_fields.items() if n != name}
    known = {n: v for n, v in others.items() if v is not PydanticUndefined}
    try:
        cls(**{**known, name: bad})
    except BadValue as err:
        demand("\n" not in str(err), f"{cls.__name__}({name}={bad!r}) is refused in several lines: {err}")
        return str(err)
    except (ValidationError, TypeError, ValueError) as err:
        raise AssertionError(
            f"{cls.__name__}({name}={bad!r}) raises {type(err).__name__} instead of BadValue"
        ) from None
    raise AssertionError(f"{cls.__name__}({name}={bad!r}) is accepted; declare the bound in its knob")
