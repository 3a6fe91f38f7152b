"""Checks of a method's class: signature, declared data, presets, and what tables read from its source."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, get_type_hints

from unlearn.data import Split
from unlearn.errors import BadValue
from unlearn.method import Method
from unlearn.registry import PROTOCOLS, methods, protocols
from unlearn.runtime import Run
from unlearn.testing.declared_checks import check_reconstructed, check_reference, declared_checks
from unlearn.testing.runs import LENT
from unlearn.testing.verdicts import Named, demand

Cls = type[Method[Any]]


def class_checks(cls: Cls) -> Named:
    """Names and checks of how a method is written."""
    yield from declared_checks(cls, methods)
    yield "reference", partial(check_reference, cls)
    yield "reconstructed", partial(check_reconstructed, cls)
    yield "signature", partial(check_signature, cls)
    yield "uses", partial(check_uses, cls)
    yield "presets", partial(check_presets, cls)
    yield "protocol-listing", partial(check_protocol_listing, cls)


def check_signature(cls: Cls) -> None:
    """The verb is `unlearn(self, subject, data, run)` and its annotation names a subject protocol."""
    wanted = "def unlearn(self, subject: <a protocol>, data: Split, run: Run) -> <the same protocol>"
    found = inspect.signature(cls.unlearn)
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in found.parameters.values())
    demand(
        list(found.parameters) == ["self", "subject", "data", "run"] and plain,
        f"{cls.__name__}.unlearn{found} must be {wanted}",
    )
    hints = get_type_hints(cls.unlearn)
    demand(
        hints.get("data") is Split and hints.get("run") is Run and "subject" in hints,
        f"{cls.__name__}.unlearn{found} lacks annotations; write {wanted}",
    )
    demand(
        getattr(hints["subject"], "_is_protocol", False) and hints.get("return") is hints["subject"],
        f"{cls.__name__}.unlearn must be annotated with a protocol of unlearn.subject and return the same one; write {wanted}",
    )


def check_uses(cls: Cls) -> None:
    """What it declares to read exists, and a value reads no set that its class does not declare."""
    known = {*LENT, *(f"{n}.x" for n in LENT)}
    value = cls()
    demand(
        bool(value.wants()[1]) == ("pool" in value.reads()),
        f"{cls.__name__} must name `pool` in `uses` and say in wants() which models and how many, or do neither",
    )
    for what, names in (("uses", cls.uses), ("reads()", cls().reads())):
        unknown = sorted(names - known)
        demand(
            not unknown,
            f"{cls.__name__}.{what} names {unknown}; there are {', '.join(LENT)}, each also as name.x",
        )
    more = {n.partition(".")[0] for n in cls().reads()} - {n.partition(".")[0] for n in cls.uses}
    demand(
        not more, f"{cls.__name__}.reads() names {sorted(more)}, which `uses` does not; add them to `uses`"
    )


def check_presets(cls: Cls) -> None:
    """Every published setting can be built and names its source."""
    for name, preset in cls.presets.items():
        demand(
            bool(preset.source.strip()),
            f"preset {name!r} of {cls.__name__} names no source; say where it was published",
        )
        try:
            cls.preset(name)
        except BadValue as err:
            raise AssertionError(f"preset {name!r} of {cls.__name__} cannot be built: {err}") from None


def check_protocol_listing(cls: Cls) -> None:
    """Protocol and data that tables read from the source are those of the imported class."""
    listing, need = methods.listing(cls.name), get_type_hints(cls.unlearn).get("subject", object)
    demand(
        listing.needs == need.__name__,
        f"the listing of {cls.name!r} needs {listing.needs!r}, the class {need.__name__!r}; import the protocol under its own name",
    )
    demand(
        listing.uses == tuple(sorted(cls.uses)),
        f"the listing of {cls.name!r} uses {listing.uses}, the class {tuple(sorted(cls.uses))}; write uses: ClassVar[frozenset[str]] = frozenset({{...}}) with literal names",
    )
    if need.__module__ in [f"unlearn.{m}" for m in PROTOCOLS]:
        demand(need.__name__ in protocols(), f"{need.__name__} is no protocol of {need.__module__}")
