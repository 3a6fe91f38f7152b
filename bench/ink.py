"""Makes the tables docs/results/ink-*.md: every method that erases, on three concepts of the embedded pipeline.

    python bench/ink.py                                    # everything that is not there yet
    python bench/ink.py --concepts three --methods esd uce --seeds 0

A run whose JSON is there is skipped, so the tables grow. Attacks run at the first seed only. Tables are written from the
JSON files, good or bad; nothing is left out.
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
ATTACKS = ("inversion", "unlearn-diff-atk", "paraphrase", "quantise")
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
The attacks' columns are success before and after the attack at seed 0, with the oracle's beside it where there is one: what
an attack reaches on a model that never saw the concept is no memory. Seconds are of one thread on a shared machine."""


def once(pool, bench, name, seed, folder, attacked):
    """The report of one run, made now if its JSON is not there; None if the method refuses the scenario."""
    path = folder / f"{name}-seed-{seed}.json"
    if path.exists():
        return Report.load(path)
    measured = api.chosen(METRICS) + [attacks.get(a)() for a in (attacked if seed == 0 else ())]
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
    """One table over all methods, with the oracle's row, the row of doing nothing, and the commands."""
    found = groups(reports)
    names = list(
        dict.fromkeys(c.name for g in found for c in g.cells if c.score.metric in ("erasure", "frechet"))
    )
    tried = list(dict.fromkeys(c.name for g in found for c in g.cells if c.name.startswith("attack/")))
    tried = [n.removesuffix("/post") for n in tried if n.endswith("/post")]
    head = ["method", "verdict", *(n.removeprefix("erasure/") for n in names), *(n.removeprefix("attack/") for n in tried),
            "seconds", "peak MiB"]  # fmt: skip

    def of(name, what):
        return next(
            (getattr(c, what) for g in found if (c := g.cell(name)) and getattr(c, what) is not None), None
        )

    rows = [["oracle", "", *(number(of(n, "reference")) for n in names),
             *(f"{number(of(f'{n}/pre', 'reference'))} → {number(of(f'{n}/post', 'reference'))}" for n in tried), "", ""],
            ["original", "", *(number(of(n, "original")) for n in names), *("" for _ in tried), "", ""]]  # fmt: skip
    for g in found:
        cells = [spread(c) if (c := g.cell(n)) else "–" for n in names]
        seen = [(g.cell(f"{n}/pre"), g.cell(f"{n}/post")) for n in tried]
        cells += [f"{number(a.value)} → {number(b.value)}" if a and b else "–" for a, b in seen]
        seconds = [r.costs.seconds for r in g.reports]
        peak = [(r.costs.peak_bytes or 0) / 2**20 for r in g.reports]
        rows.append(
            [g.label, judge(g).words, *cells, f"{sum(seconds) / len(seconds):.1f}", f"{max(peak):.0f}"]
        )
    table = [f"| {' | '.join(r)} |" for r in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
    has = (folder.parents[2] / "unlearn" / "assets" / "ink" / f"without-{concept}").is_dir()
    what = (
        "The oracle is the same pipeline trained without the concept."
        if has
        else "No oracle was trained for this concept."
    )
    env = reports[0].environment
    lines = [f"# Erasing {concept} from the embedded pipeline", "", NOTE.format(what=what), "", *table, "",
             f"Made on {env['platform']}, {env['device']}, torch {env['packages']['torch']}. Raw JSON: "
             f"[{folder.name}/]({folder.name}/), each with its commit. Commands:", "", "```sh"]  # fmt: skip
    lines += dict.fromkeys(command(r) for r in reports)
    (OUT / f"{folder.name}.md").write_text("\n".join([*lines, "```", ""]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", nargs="*", default=CONCEPTS)
    parser.add_argument("--methods", nargs="*", default=[n for n in fitting("text-to-image") if n != "given"])
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


if __name__ == "__main__":
    main()
