"""The pages of docs/methods/ are those of today's code, tests and results."""

import importlib.util
from pathlib import Path

import pytest

from unlearn.registry import methods

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "bench" / "method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_its_page_and_no_page_lacks_its_method(script):
    assert {p.stem for p in script.OUT.glob("*.md")} == {"README", *methods.names()}


def test_pages_are_those_of_the_code(script):
    old = [n for n, text in script.pages().items() if (script.OUT / n).read_text() != text]
    assert not old, "run python bench/method_pages.py"


def test_a_page_says_what_a_reader_asks(script):
    """SalUn's, by hand: equation, reads, a published setting and its source, tests, results with the oracle, failures."""
    page = (script.OUT / "salun.md").read_text()
    for said in ("arXiv:2310.12508", "- Reads: forget, retain", "| `--rho` |", "Preset `paper`", "tests/methods/test_salun.py",
                 "[digits-class-3](../results/digits-class-3.md) | 3 |", "(oracle "):  # fmt: skip
        assert said in page, said


def test_what_was_rebuilt_says_so_on_its_page(script):
    rebuilt = {m.name for m in methods.listings() if m.reconstructed}
    assert {"stochastic-teacher", "all-but-one", "convolution-transpose", "masked-small-gradients"} <= rebuilt
    for name in methods.names():
        assert ("RECONSTRUCTED" in (script.OUT / f"{name}.md").read_text()) == (name in rebuilt)
