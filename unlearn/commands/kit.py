"""The command that runs the conformance kit on somebody's plugin."""

from __future__ import annotations

from pathlib import Path

from unlearn.commands import console
from unlearn.errors import BadValue
from unlearn.registry import attacks, load_file, methods, metrics, scenarios, subjects


def check(file: Path, json: bool) -> bool:
    """Runs every check on every plugin that a file registers; whether all passed.

    Raises:
        BadValue: If the file registers nothing.
    """
    from unlearn import testing

    module = load_file(file)
    found = [
        (registry, cls)
        for registry in (methods, metrics, attacks, subjects, scenarios)
        for cls in registry.registered()
        if cls.__module__ == module.__name__
    ]
    if not found:
        raise BadValue(f'{file} registers no plugin; decorate a class with @methods.register("name")')
    failed: dict[str, str] = {}
    total = 0
    for _, cls in found:
        for name, run in testing.checks_for(cls):
            total += 1
            try:
                run()
            except AssertionError as err:
                failed[f"{cls.name}: {name}"] = " ".join(str(err).split())
    if json:
        console.say_json({"checks": total, "failed": failed})
    else:
        for name, why in failed.items():
            console.say(f"FAILED {name}: {why}")
        console.say(f"{total - len(failed)} of {total} checks passed")
    return not failed
