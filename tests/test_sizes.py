"""Size budgets: files and functions stay small enough to be read at once."""

import ast
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[1] / "unlearn"
FILES = sorted(ROOT.rglob("*.py"))
TREES = {p: ast.parse(p.read_text()) for p in FILES}
FUNCTIONS = [
    (p, n)
    for p, t in TREES.items()
    for n in ast.walk(t)
    if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
]
OWN_PARAMETERS = 6
WORDS_OF_COMMANDS = {
    "cli.py",
    "commands/attacks.py",
    "commands/evaluate.py",
    "commands/evidence.py",
}  # a command's parameters are its options


def length(node):
    return (node.end_lineno or 0) - node.lineno + 1


def lines(path):
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_have_at_most_400_lines(path):
    assert lines(path) <= 400


def test_the_median_file_has_at_most_150_lines():
    assert median(map(lines, FILES)) <= 150


def test_functions_have_at_most_60_lines():
    long = [(p.name, n.name, length(n)) for p, n in FUNCTIONS if length(n) > 60]
    assert not long


def test_nine_functions_in_ten_have_at_most_30_lines():
    assert quantiles([length(n) for _, n in FUNCTIONS], n=10)[-1] <= 30


def test_functions_take_few_parameters():
    many = []
    for p, n in FUNCTIONS:
        names = [
            a.arg
            for a in (*n.args.posonlyargs, *n.args.args, *n.args.kwonlyargs)
            if a.arg not in ("self", "cls")
        ]
        if len(names) > OWN_PARAMETERS and str(p.relative_to(ROOT)) not in WORDS_OF_COMMANDS:
            many.append((p.name, n.name, names))
    assert not many


def test_public_names_are_documented():
    bare = [
        (p.name, n.name)
        for p, t in TREES.items()
        for n in t.body
        if isinstance(n, ast.FunctionDef | ast.ClassDef)
        and not n.name.startswith("_")
        and not ast.get_docstring(n)
    ]
    assert not bare


def test_no_print_and_no_item_in_loops():
    """Methods and metrics draw nothing, and do not wait for the device inside a loop."""
    found = []
    for p in (*ROOT.glob("methods/*.py"), *ROOT.glob("evals/*.py"), *ROOT.glob("ops/*.py")):
        for n in ast.walk(TREES[p]):
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print":
                found.append((p.name, n.lineno, "print"))
            if isinstance(n, ast.For | ast.While):
                found += [(p.name, c.lineno, "item") for c in ast.walk(n) if _is_item(c)]
    assert not found


def _is_item(node):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "item"
        and not node.args
    )
