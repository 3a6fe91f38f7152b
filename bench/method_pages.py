"""Makes docs/methods/: one page for each method, from its source, its tests and its published results.

    python bench/method_pages.py

Nothing on a page is written by hand: what the method does and where it differs from released code are its docstring,
options and presets its fields, parity tests the names of its test functions, results the raw JSON in docs/results/.
`tests/test_method_pages.py` holds that the pages are those of today's code.
"""

import ast
import inspect
import json
import re
from functools import cache
from pathlib import Path

from unlearn.registry import methods, offers, subjects
from unlearn.report import Report
from unlearn.report.markdown import escape
from unlearn.report.summary import groups, number
from unlearn.report.verdict import judge

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "methods"
RESULTS = ROOT / "docs" / "results"
TESTS = ROOT / "tests"
SHOWN, LEFT_OUT = 4, {"accuracy/retain", "accuracy/test_forget"}
"""How many headline scores a result row has, and which it skips; all are in the tables of docs/results/."""
HEAD = """# Methods

One page for each of the {n} methods: what it does, its equation, what it reads, its options with the published settings, where
it differs from released code, the tests that hold it to its paper, and what it did on the scenarios of this repository, with
which settings, good or bad. Made by `python bench/method_pages.py`.

| method | fits | reads | what it does |
|---|---|---|---|
"""


def blocks(doc):
    """The docstring's description, and its further blocks by title."""
    text = inspect.cleandoc(doc)
    parts = re.split(r"^([A-Z][^\n:]*):\n(?=    )", text, flags=re.MULTILINE)
    return parts[0].strip(), {t: b for t, b in zip(parts[1::2], parts[2::2], strict=True)}


def flat(block):
    """An indented block without its indentation."""
    return prose(inspect.cleandoc(block))


def prose(text):
    """Text whose marks markdown leaves alone; indented equations stay as they are."""
    marked = [
        t if t.startswith("    ") else t.replace("<", "&lt;").replace("*", "\\*") for t in text.splitlines()
    ]
    return "\n".join(marked)


def fits(need):
    return [s for s in subjects.names() if need in offers(s)]


def options(cls):
    """The table of fields, a column for each published setting."""
    presets = list(cls.presets.items())
    head = ["option", "default", "allowed", "searched", *(f"preset `{n}`" for n, _ in presets), "meaning"]
    rows = []
    for k in cls.knobs():
        searched = "–" if not k.search else f"{k.search[0]:g} to {k.search[-1]:g}"
        values = [escape(str(p.values[k.name])) if k.name in p.values else "" for _, p in presets]
        rows.append([f"`--{k.name.replace('_', '-')}`", escape(str(k.default)), escape(k.allowed), searched, *values,
                     escape(k.doc)])  # fmt: skip
    lines = table(head, rows)
    return [*lines, "", *(f"- Preset `{n}`: {escape(p.source)}" for n, p in presets)]


def table(head, rows):
    return ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]


def tests_of(name):
    """What the test functions that hold a method to its paper say, in words, file by file.

    These are those of the file of its name, those elsewhere in tests/methods/ that use what its module defines, and those of
    the pieces of unlearn/ops/ that it imports, in files of tests/ that import the piece and are named after it.
    """
    module = name.replace("-", "_")
    pieces = pieces_of(parsed(ROOT / "unlearn" / "methods" / f"{module}.py"))
    lines = []
    for path in sorted((TESTS / "methods").glob("test_*.py")) + sorted(TESTS.glob("test_*.py")):
        tree, about = parsed(path), path.stem.removeprefix("test_")
        if path.parent == TESTS:
            named = [p for p in pieces & pieces_of(tree) if f"{about}_".startswith(f"{p}_")]
            found = tests_in(tree) if named else []
        else:
            found = tests_in(tree) if about == module else using(tree, f"unlearn.methods.{module}")
        if found:
            place = path.relative_to(ROOT).as_posix()
            said = [f"- {n.name.removeprefix('test_').replace('_', ' ')}" for n in found]
            lines += [*([""] if lines else []), f"[{place}](../../{place}):", "", *said]
    return lines


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(tree):
    """Pairs of module and name that a file imports from it."""
    return [
        (n.module, a.asname or a.name)
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom)
        for a in n.names
    ]


def pieces_of(tree):
    """Names of the modules of unlearn/ops/ that a file imports from."""
    return {m.removeprefix("unlearn.ops.") for m, _ in imports(tree) if m.startswith("unlearn.ops.")}


def tests_in(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def using(tree, module):
    """The test functions that use a name of a module, themselves or by way of what else is in their file."""
    wanted = {name for m, name in imports(tree) if m == module}
    defined = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        defined |= {getattr(t, "name", getattr(t, "id", "")): node for t in targets}

    def reached(node, seen):
        for name in names_in(node) - seen:
            seen.add(name)
            if name in defined:
                reached(defined[name], seen)
        return seen

    return [n for n in tests_in(tree) if wanted & reached(n, set())]


def names_in(node):
    """Names that are used somewhere in a piece of code, those of fixtures included."""
    every = list(ast.walk(node))
    return {n.id for n in every if isinstance(n, ast.Name)} | {n.arg for n in every if isinstance(n, ast.arg)}


def results_of(name):
    """Rows of every scenario with results of this method, one for each of its settings; of requests in turn, after the last."""
    rows = []
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()):
        found = [Report.load(p) for p in sorted(folder.glob(f"{name}-seed-*.json"))]
        for settings, group in {other_than_defaults(g.first): g for g in groups(found)}.items():
            cells = [c for c in group.headline if c.value is not None and c.name not in LEFT_OUT][:SHOWN]
            said = "; ".join(f"{c.name} {number(c.value)}"
                             + (f" ± {number(c.half)}" if c.half is not None else "")
                             + (f" (oracle {number(c.reference)})" if c.reference is not None else "") for c in cells)  # fmt: skip
            page = RESULTS / f"{folder.name}.md"
            link = f"[{folder.name}](../results/{page.name})" if page.exists() else folder.name
            rows.append([link, settings, str(len(group.reports)), judge(group).words, escape(said)])
    return table(["scenario", "settings", "seeds", "verdict", "scores"], rows) if rows else []


def other_than_defaults(report):
    """The settings of a run that are not today's defaults, in words; options that have gone since are among them."""
    defaults = {k.name: k.default for k in methods.get(report.method).knobs()}
    values = report.recipe["method"]["values"].items()
    said = [f"{k}={v}" for k, v in values if k not in defaults or json.dumps(defaults[k]) != json.dumps(v)]
    return escape(", ".join(said)) or "defaults"


def page(name):
    """The whole page of one method."""
    cls, listing = methods.get(name), methods.listing(name)
    text, more = blocks(listing.doc)
    summary, _, body = text.partition("\n")
    lines = [f"# {name}", "", prose(summary), "", prose(body.strip("\n"))]
    for title, block in more.items():
        lines += ["", f"## {title}", "", flat(block)]
    reads = ", ".join(sorted(listing.uses)) or "nothing"
    traits = [w for w, held in (("every seed gives the same weights", cls.deterministic),
                                ("the result never saw the forget set", cls.exact)) if held]  # fmt: skip
    lines += ["", "## Fits and reads", "", f"- Fits: {', '.join(fits(listing.needs)) or 'no built-in subject'} (needs `{listing.needs}`)",
              f"- Reads: {reads}", *(f"- {t[0].upper()}{t[1:]}" for t in traits)]  # fmt: skip
    if cls.knobs():
        lines += ["", "## Options", "", *options(cls)]
    for title, rest in (
        ("Tests against the paper", tests_of(name)),
        ("Results", results_of(name)),
    ):
        lines += ["", f"## {title}", "", *rest] if rest else []
    if cls.expected_failures:
        lines += ["", "## Where it fails", ""]
        lines += [f"- {kind} requests: {why}" for kind, why in cls.expected_failures.items()]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def index():
    rows = [
        f"| [{m.name}]({m.name}.md) | {', '.join(fits(m.needs)) or '–'} | {', '.join(m.uses) or 'nothing'} | {escape(m.summary)} |"
        for m in methods.listings()
    ]
    return HEAD.format(n=len(rows)) + "\n".join(rows) + "\n"


def pages():
    """Every file of docs/methods/ by name."""
    return {"README.md": index(), **{f"{n}.md": page(n) for n in methods.names()}}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in OUT.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (OUT / name).write_text(text)
    print(f"{len(made)} pages in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
