"""An installed package with the entry point of the page on plugins, in an environment of its own."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("package")  # one store serves the file
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "my-package"
version = "1.0"

[project.entry-points."unlearn.metrics"]
confidence = "my_package.my_metric:Confidence"

"""
ROOT = Path(__file__).parents[1]
FILES = {"my_method.py": "gentle_ascent.py", "my_metric.py": "my_metric.py"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new virtual environment that sees this one's packages, with the tiny package really installed."""
    folder = tmp_path_factory.mktemp("package")
    package = folder / "source" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for example, name in FILES.items():
        (package / name).write_text((ROOT / "examples" / example).read_text())
    (shown,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    (folder / "source" / "pyproject.toml").write_text(PROJECT + shown)
    venv.create(folder / "env", with_pip=True)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    lines = [p for p in sys.path if p.endswith("site-packages")] + [str(ROOT)]
    (site / "outer.pth").write_text("\n".join(lines))
    python = folder / "env" / "bin" / "python"
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        folder / "source",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return python, {**os.environ, "UNLEARN_STORE": str(folder / "store"), "COLUMNS": "120"}


def unlearn(environment, *words):
    python, variables = environment
    return subprocess.run(
        [python, "-m", "unlearn", *words],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_its_method_is_listed_with_its_origin(environment):
    found = unlearn(environment, "methods", "--json")
    assert found.returncode == 0, found.stderr
    assert '"origin": "my-package"' in found.stdout


def test_its_method_and_metric_run(environment):
    words = ["--scenario", "digits/class=3,epochs=1", "--metrics", "accuracy,confidence", "--lr", "0.01"]
    found = unlearn(environment, "run", "gentle-ascent", *words)
    assert found.returncode == 0, found.stderr
    assert "confidence/forget" in found.stdout


def test_without_the_package_the_name_is_unknown():
    found = subprocess.run(
        [sys.executable, "-m", "unlearn", "show", "gentle-ascent"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert "no method called 'gentle-ascent'" in found.stderr
