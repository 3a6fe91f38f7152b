"""The exact command that makes a report again."""

from __future__ import annotations

import shlex
from typing import Any

from unlearn.errors import UnlearnError
from unlearn.registry import attacks, methods, metrics
from unlearn.report import Report
from unlearn.suites import DEFAULT, ORACLES, SUITES


def command(report: Report) -> str:
    """The command line of a report's run: only hyper-parameters that differ from the defaults are named.

    Positions of forgotten examples are written out. Names of a user's own plugins need their `--plugin` as well.
    """
    recipe = report.recipe
    words = [
        "unlearn",
        "run",
        report.method,
        "--scenario",
        _scenario(recipe["scenario"]),
        *_seeds(report.seeds),
    ]
    measured = recipe.get("metrics", [])
    suite, words = _suite(measured, words)
    if (shown := len(recipe.get("oracles", []))) > 0 and shown != ORACLES.get(suite, 1):
        words += ["--oracles", str(shown)]
    if plugin := recipe.get("plugin"):
        words += ["--plugin", plugin]
    for name, values in measured:
        if name in attacks.names():
            words += ["--attack", _attack(name, values)]
    defaults = _defaults(report.method)
    for name, value in recipe["method"]["values"].items():
        if name not in defaults or defaults[name] != value:
            words += _flag(name, value)
    return shlex.join(words)


def _suite(measured: list[Any], words: list[str]) -> tuple[str, list[str]]:
    """The smallest suite in which everything is that was measured, and the words that ask for it, or for the metrics."""
    names = [name for name, _ in measured if name not in attacks.names()]
    if "erasure" in names:  # no suite looks at drawings
        return "", [*words, "--metrics", ",".join(names)]
    for suite in SUITES:
        if all(_in(suite, name, values) for name, values in measured if name in names):
            return suite, words if suite == DEFAULT else [*words, "--suite", suite]
    return "", [*words, "--metrics", ",".join(names)]


def _in(suite: str, name: str, values: dict[str, Any]) -> bool:
    """Whether a suite has this metric with these hyper-parameters."""
    try:
        cls = metrics.get(name)
    except UnlearnError:
        return False
    if name in SUITES[suite]:
        return bool(cls(**SUITES[suite][name]).to_dict() == values)
    return bool(cls.basic and cls().to_dict() == values)


def _attack(name: str, values: dict[str, Any]) -> str:
    """An attack as the command line reads it: only fields that differ from the defaults are named."""
    known = {k.name: k.default for k in attacks.get(name).knobs()}
    told = ",".join(f"{k}={v}" for k, v in values.items() if known.get(k) != v)
    return f"{name}/{told}" if told else name


def _scenario(recipe: dict[str, Any]) -> str:
    """The scenario as the command line reads it; its text shortens long lists of positions."""
    text, request = str(recipe["text"]), recipe["request"]
    if request["kind"] != "indices":
        return text
    name, _, rest = text.partition("/")
    options = "".join(f",{word}" for word in rest.split(",")[1:])
    return f"{name}/indices={':'.join(map(str, request['indices']))}{options}"


def _seeds(seeds: dict[str, int]) -> list[str]:
    if len(set(seeds.values())) == 1:
        return ["--seed", str(next(iter(seeds.values())))]
    return [word for name, value in seeds.items() for word in (f"--{name}-seed", str(value))]


def _defaults(method: str) -> dict[str, Any]:
    """Defaults as the JSON of a report has them; none of a plugin that is not here."""
    try:
        cls = methods.get(method)
    except UnlearnError:
        return {}
    return {k.name: list(k.default) if isinstance(k.default, tuple) else k.default for k in cls.knobs()}


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list):
        return [f"--{flag}", ",".join(map(str, value))]
    return [f"--{flag}", "none" if value is None else str(value)]
