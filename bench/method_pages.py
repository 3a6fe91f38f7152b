"""Makes docs/methods/: one page for each method, from its source, its tests and its published results.

    python bench/method_pages.py

Nothing on a page is written by hand: what the method does and where it differs from released code are its docstring,
options and presets its fields, parity tests the names of its test functions, results the raw JSON in docs/results/.
`tests/test_method_pages.py` holds that the pages are those of today's code.
"""

import ast
import inspect
import re
from pathlib import Path

from unlearn.registry import methods, offers, subjects
from unlearn.report import Report
from unlearn.report.markdown import escape
from unlearn.report.summary import groups, number
from unlearn.report.verdict import judge

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "methods"
RESULTS = ROOT / "docs" / "results"
SHOWN, LEFT_OUT = 4, {"accuracy/retain", "accuracy/test_forget"}
"""How many headline scores a result row has, and which it skips; all are in the tables of docs/results/."""
HEAD = """# Methods

One page for each of the {n} methods: what it does, its equation, what it reads, its options with the published settings, where
it differs from released code, the tests that hold it to its paper, and what it did on the scenarios of this repository, good
or bad. Made by `python bench/method_pages.py`.

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
    """What the method's own test functions say, in words."""
    path = ROOT / "tests" / "methods" / f"test_{name.replace('-', '_')}.py"
    if not path.exists():
        return []
    found = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    names = [n.name.removeprefix("test_").replace("_", " ") for n in found if n.name.startswith("test_")]
    return [f"[tests/methods/{path.name}](../../tests/methods/{path.name}):", "", *(f"- {n}" for n in names)]


def results_of(name):
    """Rows of every scenario with results of this method at its defaults; of requests in turn, after the last."""
    rows = []
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()):
        found = [Report.load(p) for p in sorted(folder.glob(f"{name}-seed-*.json"))]
        if not found:
            continue
        group = groups(found)[-1]
        cells = [c for c in group.headline if c.value is not None and c.name not in LEFT_OUT][:SHOWN]
        said = "; ".join(f"{c.name} {number(c.value)}"
                         + (f" ± {number(c.half)}" if c.half is not None else "")
                         + (f" (oracle {number(c.reference)})" if c.reference is not None else "") for c in cells)  # fmt: skip
        page = RESULTS / f"{folder.name}.md"
        link = f"[{folder.name}](../results/{page.name})" if page.exists() else folder.name
        rows.append([link, str(len(group.reports)), judge(group).words, escape(said)])
    return table(["scenario", "seeds", "verdict", "scores"], rows) if rows else []


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
        ("Results at the defaults", results_of(name)),
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
