"""Library metadata carries ranges whose lower bounds are the versions that CI installs for the wheel."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return {k.lower(): v for k, _, v in (line.partition("==") for line in lines) if v}


def bounds():
    found = [re.fullmatch(r"([a-zA-Z0-9-]+)>=([0-9.]+)", d) for d in PROJECT["dependencies"]]
    assert all(found), "a dependency is a name with a lower bound and nothing else"
    return {m.group(1): m.group(2) for m in found}


def numbers(version):
    parts = [int(p) for p in version.split(".")]
    return parts + [0] * (3 - len(parts))


def test_lower_bounds_are_the_lowest_tested_versions():
    lowest = pins("constraints-lowest.txt")
    assert {n: numbers(v) for n, v in bounds().items()} == {n: numbers(v) for n, v in lowest.items()}


def test_what_make_installs_is_within_the_ranges():
    newest = pins("constraints.txt")
    for name, low in bounds().items():
        assert numbers(newest[name]) >= numbers(low), name


def test_the_licence_and_python_are_stated():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["name"] == "unlearn-workbench"
