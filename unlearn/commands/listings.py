"""Commands that list and explain plugins, from their source, without importing torch where nobody must."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import rich

from unlearn import registry
from unlearn.commands import console
from unlearn.registry import Listing

REGISTRIES: dict[str, registry.Registry[Any]] = {
    "methods": registry.methods,
    "metrics": registry.metrics,
    "attacks": registry.attacks,
    "scenarios": registry.scenarios,
}
REQUESTS = (
    "Requests: class=3, subclass=rocket, random=0.1, range=25:80, group=alice, indices=1:5:8, or the path of a file with one position "
    "in each line; what was spoilt on purpose: noisy, confused, poisoned, planted, or poisoned=0.1 if a tenth of it was "
    "identified; several one after another: class=3+class=5. Options follow: digits/random=0.1,noise=0.1"
)


def every(kind: str, json: bool) -> None:
    """Prints all methods, metrics, attacks or scenarios."""
    if kind == "methods":
        _methods(json)
    else:
        _plain(kind, json)


def _methods(json: bool) -> None:
    """Prints the methods with their compatibility matrix, derived from annotations."""
    found = registry.methods.listings()
    kinds = registry.subjects.names()
    fits = {m.name: [s for s in kinds if _fits(m, s)] for m in found}
    if json:
        console.say_json([{**_entry(m), "subjects": fits[m.name]} for m in found])
        return
    rows = [(m.name, "".join("●" if s in fits[m.name] else "·" for s in kinds), m.summary) for m in found]
    console.table(["method", "fits", "what it does"], rows)
    console.say(f"\nfits, from left to right: {', '.join(kinds)}")


def _plain(kind: str, json: bool) -> None:
    """Prints metrics, attacks or scenarios."""
    found = REGISTRIES[kind].listings()
    if json:
        console.say_json([_entry(m) for m in found])
        return
    console.table([kind[:-1], "what it is"], [(m.name, m.summary) for m in found])
    if kind == "scenarios":
        console.say(f"\n{REQUESTS}")


def show(name: str, json: bool) -> None:
    """Explains one plugin of any kind.

    Raises:
        UnknownName: If no registry has the name.
    """
    kind = next((k for k, r in REGISTRIES.items() if name in r.names()), "methods")
    listing = REGISTRIES[kind].listing(name)
    cls = REGISTRIES[kind].get(name)
    knobs = [k for k in cls.knobs() if k.name != "request"]
    if json:
        fields = [{"name": k.name, "type": k.kind, "default": k.default, "doc": k.doc, "bounds": k.bounds,
                   "choices": list(k.choices), "search": k.search} for k in knobs]  # fmt: skip
        console.say_json({**_entry(listing), "kind": kind[:-1], "doc": listing.doc, "fields": fields})
        return
    rich.get_console().print(listing.name, style="bold")
    console.say(listing.doc)
    if kind == "methods":
        console.say("")
        for line in _facts(cls, listing):
            console.say(line)
    if kind == "attacks":
        console.say(
            f"\nBudget: {cls().budget()}; another is written as {name}/{knobs[0].name}={knobs[0].default}"
        )
    if knobs:
        console.say("")
        console.table(
            ["option", "default", "allowed", "meaning"],
            [(_option(k.name, kind), str(k.default), k.allowed, k.doc) for k in knobs],
        )


def _option(name: str, kind: str) -> str:
    """A field as it is written on the command line."""
    return f"--{name.replace('_', '-')}" if kind == "methods" else f"{name}="


def _facts(cls: Any, listing: Listing) -> Iterator[str]:
    yield f"Fits: {', '.join(s for s in registry.subjects.names() if _fits(listing, s)) or 'no built-in subject'} (needs {listing.needs})"
    yield f"Reads: {', '.join(sorted(cls().reads())) or 'nothing'}"
    if (wanted := cls().wants())[1]:
        yield f"Is lent: {wanted[1]} {wanted[0]} models, trained for it and charged to it"
    for name, preset in cls.presets.items():
        values = ", ".join(f"{k}={v}" for k, v in preset.values.items()) or "the defaults"
        yield f"Preset {name}: {values} ({preset.source})"
    for kind, why in cls.expected_failures.items():
        yield f"Known to fail on {kind} requests: {why}"


def _fits(method: Listing, subject: str) -> bool:
    return method.needs in registry.offers(subject)


def _entry(m: Listing) -> dict[str, Any]:
    return {
        "name": m.name,
        "summary": m.summary,
        "reference": m.reference,
        "reconstructed": m.reconstructed,
        "needs": m.needs,
        "uses": list(m.uses),
        "origin": m.origin,
    }
