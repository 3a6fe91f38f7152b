"""Makes the tables docs/results/ink-*.md: every method that erases, on three concepts of the embedded pipeline.

    python bench/ink.py                                    # everything that is not there yet
    python bench/ink.py --concepts three --methods esd uce --seeds 0

A run whose JSON is there is skipped, so the tables grow. Attacks run at the first seed only; all of them on ESD and UCE, the
quickest three on the others. Tables are written from the JSON files, good or bad; nothing is left out.
"""

import argparse
from pathlib import Path

from unlearn import api
from unlearn.errors import UnlearnError
from unlearn.pool import Pool
from unlearn.registry import attacks, fitting
from unlearn.report import Report
from unlearn.report.reproduce import command
from unlearn.report.summary import groups, number, spread
from unlearn.report.verdict import judge
from unlearn.scenario import Seeds, parse

OUT = Path(__file__).parents[1] / "docs" / "results"
CONCEPTS = ("three", "seven", "chalk")
METRICS = ("erasure", "frechet", "memory", "run-time", "read")
ATTACKS = ("inversion", "paraphrase", "quantise")
SETTINGS: dict[str, dict[str, object]] = {
    "salun": {
        "order": "joint",
        "optimiser": "adam",
        "lr": 5e-4,
        "batch_size": 16,
        "epochs": 8,
        "weight_decay": 0.0,
    },
    "ssd": {"alpha": 2.0},
}
"""Hyper-parameters of methods whose defaults are those of classifiers; see tuning/ink.md."""

NOTE = """{what} Mean ± half-width of the 95 % t-interval over three seeds, which decide the noise that images are drawn from and
whatever the method draws; methods at their defaults unless the commands say otherwise. UA: share of the concept's drawings
that show another one (a drawing that shows nothing is damage, not erasure); in-domain and cross-domain: share of the
others drawn right, on the concept's axis and on the other; Frechet: distance on the features of the digit judge, no FID.
Seconds are of one thread on a shared machine."""
ATTACKED = """Share of the concept's prompts that show it without an attack → with it, at seed 0. What an attack reaches on the
oracle, which never saw the concept, is no memory. ESD and UCE were attacked in every way, the others in the quickest three."""


def once(pool, bench, name, seed, folder, attacked):
    """The report of one run, made now if its JSON is not there; None if the method refuses the scenario."""
    path = folder / f"{name}-seed-{seed}.json"
    if path.exists():
        return Report.load(path)
    tried = attacks.names() if name in ("esd", "uce") and attacked else attacked
    measured = api.named(METRICS) + [attacks.get(a)() for a in (tried if seed == 0 else ())]
    try:
        method = api.build_method(name, SETTINGS.get(name, {}))
        ((report, _),) = bench.run(pool, method, measured, Seeds(seed, seed, seed))
    except UnlearnError as err:
        print(f"{name}: {err}", flush=True)
        return None
    report = report.model_copy(update={"figures": {}})
    report.save(path)
    print(f"{folder.name}: {name}, seed {seed}: {report.costs.seconds:.1f} s", flush=True)
    return report


def page(folder, concept, reports):
    """What every method did, with the oracle's row and the row of doing nothing; what attacks did; and the commands."""
    found = groups(reports)
    has = (folder.parents[2] / "unlearn" / "assets" / "ink" / f"without-{concept}").is_dir()
    what = (
        "The oracle is the same pipeline trained without the concept."
        if has
        else "No oracle was trained for this concept."
    )
    env = reports[0].environment
    lines = [
        f"# Erasing {concept} from the embedded pipeline",
        "",
        NOTE.format(what=what),
        "",
        *erasure(found, has),
        "",
    ]
    if tried := attacked(found, has):
        lines += ["## Attacks", "", ATTACKED, "", *tried, ""]
    lines += [f"Made on {env['platform']}, {env['device']}, torch {env['packages']['torch']}. Raw JSON: "
              f"[{folder.name}/]({folder.name}/), each with its commit. Commands:", "", "```sh"]  # fmt: skip
    lines += dict.fromkeys(command(r) for r in reports)
    (OUT / f"{folder.name}.md").write_text("\n".join([*lines, "```", ""]))


OVERVIEW = """# Erasing a concept from the embedded pipeline: every method, three concepts

Means over three seeds: UA, the share of the concept's drawings that show another one; in-domain and cross-domain, the share
of the others drawn right on the concept's axis and on the other. Inversion: share of the concept's prompts that show it after
a word was learnt for it from 25 images, at seed 0; what is not far above the oracle's is no memory. Intervals, other
attacks, costs and commands: {pages}.

{table}

What the attacks can do here: inversion and relearning bring back what ESD erased (three: from 0.05 to 0.75 and 0.95, on the
oracle 0), so what it does is hiding. Attacks that may only choose words (UnlearnDiffAtk, P4D, Ring-A-Bell) add at most a fifth,
for the little vocabulary has no other word for a three: from what Ring-A-Bell finds the original draws the concept every
time, ESD's model almost never, and four bits round the original away as little ([attack-power.md](attack-power.md)).
Paraphrases add up to a half where it is half erased (MACE, UCE), and quantisation a fifth at most. Of those that leave little of a digit, SalUn and SLD withstand the learnt word best (0.20 at
most), and SLD pays with neighbours.
"""


def overview(folders):
    """One table over all concepts."""
    found = {
        f.name.partition("-")[2]: groups([Report.load(p) for p in sorted(f.glob("*-seed-*.json"))])
        for f in folders
    }
    columns = [("UA", "erasure/ua"), ("in-domain", "erasure/in-domain"), ("cross-domain", "erasure/cross-domain"),
               ("inversion", "attack/inversion/post")]  # fmt: skip
    head = ["method", *(f"{concept}: {short}" for concept in found for short, _ in columns)]
    rows = [[who, *(number(value(g, n, what)) for g in found.values() for _, n in columns)]
            for who, what in (("oracle", "reference"), ("original", "original"))]  # fmt: skip
    labels = list(dict.fromkeys(g.label for some in found.values() for g in some))
    for label in labels:
        cells = [c.value if g and (c := g.cell(n)) else None
                 for some in found.values() for g in [next((g for g in some if g.label == label), None)]
                 for _, n in columns]  # fmt: skip
        rows.append([label, *map(number, cells)])
    pages = ", ".join(f"[{concept}](ink-{concept}.md)" for concept in found)
    (OUT / "ink.md").write_text(OVERVIEW.format(pages=pages, table="\n".join(table(head, rows))))


def erasure(found, oracle):
    """Lines of the table of scores and costs."""
    cells = [c for g in found for c in g.cells if c.score.metric in ("erasure", "frechet")]
    names = list(dict.fromkeys(c.name for c in cells))
    head = ["method", "verdict", *(n.removeprefix("erasure/") for n in names), "seconds", "peak MiB"]
    rows = []
    for who in ("reference", "original"):
        if who == "original" or oracle:
            values = [value(found, n, who) for n in names]
            rows.append(["oracle" if who == "reference" else who, "", *map(number, values), "", ""])
    for g in found:
        shown = [spread(c) if (c := g.cell(n)) else "–" for n in names]
        seconds = [r.costs.seconds for r in g.reports]
        peak = max((r.costs.peak_bytes or 0) / 2**20 for r in g.reports)
        mean = f"{sum(seconds) / len(seconds):.1f}"
        rows.append([g.label, judge(g).words, *shown, mean, f"{peak:.0f}"])
    return table(head, rows)


def attacked(found, oracle):
    """Lines of the table of attacks, the most successful on any method first; nothing if there were none."""
    names = {c.name.removesuffix("/post") for g in found for c in g.cells if c.name.endswith("/post")}
    names = sorted(names, key=lambda n: (-max(filled(found, f"{n}/post")), n))
    rows = []
    if oracle:
        pairs = [[value(found, f"{n}/{when}", "reference") for when in ("pre", "post")] for n in names]
        rows.append(["oracle", *(" → ".join(map(number, p)) for p in pairs)])
    for g in found:
        pairs = [(g.cell(f"{n}/pre"), g.cell(f"{n}/post")) for n in names]
        if any(post for _, post in pairs):
            rows.append(
                [g.label, *(f"{number(a.value)} → {number(b.value)}" if b else "–" for a, b in pairs)]
            )
    return table(["method", *(n.removeprefix("attack/") for n in names)], rows) if names else []


def filled(found, name):
    """The values of a score over methods."""
    return [c.value for g in found if (c := g.cell(name)) and c.value is not None]


def value(found, name, what):
    """A reference value, which all methods share."""
    seen = (getattr(c, what) for g in found if (c := g.cell(name)))
    return next((v for v in seen if v is not None), None)


def table(head, rows):
    """Lines of a table."""
    return [f"| {' | '.join(r)} |" for r in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", nargs="*", default=CONCEPTS)
    parser.add_argument(
        "--methods", nargs="*", default=[n for n in fitting("text-to-image") if n not in ("given", "retrain")]
    )
    parser.add_argument("--attacks", nargs="*", default=ATTACKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--store", type=Path, default=None)
    args = parser.parse_args()
    bench = api.bench(args.store, "cpu")
    for concept in args.concepts:
        folder = OUT / f"ink-{concept.replace(' ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        pool = Pool(parse(f"ink/concept={concept}"), bench.store, bench.device)
        for seed in args.seeds:
            for name in args.methods:
                once(pool, bench, name, seed, folder, args.attacks)
        reports = [Report.load(p) for p in sorted(folder.glob("*-seed-*.json"))]
        if reports:
            page(folder, concept.replace(" ", "-"), reports)
    overview([f for f in sorted(OUT.glob("ink-*")) if f.is_dir() and any(f.glob("*.json"))])


if __name__ == "__main__":
    main()
