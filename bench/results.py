"""Makes the tables of docs/results/ that `bench/sheets.py` describes.

    python bench/results.py digits-class-3 faces-class-s1 --store S
    python bench/results.py --list

A run whose JSON is there is skipped, so that the same command after an interruption goes on. Data sets are looked for in
data/, by the names that `--list` shows. Tables are written from the JSON files, good or bad; nothing is left out: a method that
refuses a request is listed with its reason.
"""

import argparse
from pathlib import Path

from sheets import SHEETS

from unlearn import api
from unlearn.errors import UnlearnError
from unlearn.pool import Pool
from unlearn.registry import methods, metrics
from unlearn.report import Report, markdown
from unlearn.report.reproduce import command
from unlearn.report.summary import groups
from unlearn.scenario import Seeds, steps
from unlearn.scenario import parse as scenario

OUT = Path(__file__).parents[1] / "docs" / "results"

INDEX = """# Results

{links}
- [How the defaults were chosen](tuning/README.md)

Every comparison has the row of doing nothing and the oracle's, and every run's raw JSON is beside it. No oracle is shipped for
seven on the embedded pipeline, and the oracle's row of the pretrained ResNets is empty, because they come without their recipe;
what attacks find and how long methods take are no comparisons with an oracle. The verdicts follow the rules that each report
states. Seven things to know before reading them:

- **Clean digits give a membership attack little power.** On `digits/random=0.1` the original answers the forgotten tenth as
  the oracle does, and the loss attack tells the two apart by 0.05 of AUC, the threshold itself: what the table shows is who
  over-forgets or does damage. Label noise (`digits/noisy,noise=0.1`) is where forgetting can be measured.
- **Class removal is told by 37 held-out examples of the class**, so the AUC of the attack is known to about 0.1 over three
  seeds; *too close to call* means exactly that.
- **Defaults that were tuned on digits do not travel.** On a transformer, on an encoder, on forty faces and on photographs most
  of them break the model: steps that suit a residual network on digits are too large there. The pages of transformer and faces
  say what was tried. GS-LoRA is what serves a transformer, and it holds through four requests in turn.
- **Published settings mostly do nothing on little data**: where 50,000 examples make hundreds of steps of 1e-4, 900 make a few.
  [One page](digits-class-3-published.md) has all of them, with what each lacked.
- **A sub-class is known by its relatives.** A network that never saw a sea answers 91 % of them with the right super-class,
  and 4 % of rockets: where a method ends between these tells nothing without the oracle's row.
- **The pretrained ResNet-20 and -56 have no oracle**, because they come without their recipe, so what needs a reference is
  missing; small networks that are trained here on 1,000 images have one, and know little. Of the defaults only DUCK's carry
  over to the pretrained one: SalUn's steps are too large for it (held-out accuracy falls from 93 to 71-76 %), SCAR's cost 8 to
  11 points, and SSD at α = 9 selects too little, as the forget share of a tenth bounds the ratio of importances at ten.
- **Erasing from the embedded pipeline is harder than it looks.** Of a style only SalUn, which reads real images, leaves
  nothing; of a digit SalUn, SPM, SLD, SLUG and ESD leave little, at the price of neighbours. A single learnt word brings the
  digit back from ESD, SPM and SLUG.

## Expected failures at the default

| method | request | why |
|---|---|---|
{failures}
"""


def once(pool, bench, name, seed, folder, preset=""):
    """The reports of one run, one for each of the requests in turn; made now if their JSON is not there.

    Raises:
        UnlearnError: If the method refuses the scenario.
    """
    start = folder / f"{name}{'-' + preset if preset else ''}-seed-{seed}"
    n = len(steps(pool.scenario.request))
    paths = [Path(f"{start}.json")] if n == 1 else [Path(f"{start}-step-{k + 1}.json") for k in range(n)]
    if all(p.exists() for p in paths):
        return [Report.load(p) for p in paths]
    measured = [*api.fitting(pool, "basic"), *(metrics.get(m)() for m in SHEETS[folder.name].metrics)]
    done = bench.run(pool, api.build_method(name, {}, preset), measured, Seeds(seed, seed, seed))
    reports = [r.model_copy(update={"figures": {}}) for r, _ in done]
    for report, path in zip(reports, paths, strict=True):
        report.save(path)
        print(f"{folder.name}: {path.stem}: {report.costs.seconds:.1f} s", flush=True)
    return reports


def fill(place, bench):
    """Runs what is missing of a sheet; returns all reports, and why methods refused."""
    sheet, folder = SHEETS[place], OUT / place
    folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(scenario(sheet.scenario), bench.store, bench.device)
    found, refused = [], {}
    for seed in sheet.seeds:
        for name, preset in sheet.runs:
            if name in refused:
                continue
            try:
                found += once(pool, bench, name, seed, folder, preset)
            except UnlearnError as err:
                refused[name] = str(err)
                print(f"{place}: {name}: {err}", flush=True)
    return found, refused


def page(place, reports, refused):
    """One table over all methods, oracle and do-nothing row included, with the commands."""
    sheet = SHEETS[place]
    reports = [shown(r, sheet.more) for r in reports]
    lines = [f"# {sheet.title}", "", sheet.note, "", *markdown.comparison(groups(reports)), ""]  # fmt: skip
    if refused:
        lines += ["Refused:", "", *(f"- {name}: {why}" for name, why in refused.items()), ""]
    if sheet.why:
        lines += [
            f"Why, tried on seed 0 with one setting changed ({sheet.figures}):",
            "",
        ]
        lines += [*(f"- {line}" for line in sheet.why), ""]
    if sheet.left_out:
        lines += [f"Listed and not run: {sheet.left_out}.", ""]
    env = reports[0].environment
    lines += [f"Begun at commit {env.get('commit', '?')[:10]} on {env['platform']}, {env['device']}, torch {env['packages']['torch']}; "
              f"the raw JSON of each run, with its own, is in [{place}/]({place}/). The whole table, and the runs of seed 0 one by one:",
              "", "```sh", f"python bench/results.py {place}"]  # fmt: skip
    lines += dict.fromkeys(command(r) for r in reports if r.seeds["method"] == sheet.seeds[0])
    (OUT / f"{place}.md").write_text("\n".join([*lines, "```", ""]))


def shown(report, names):
    """A report whose first table has further scores."""
    scores = [s.model_copy(update={"headline": s.headline or s.name in names}) for s in report.scores]
    return report.model_copy(update={"scores": tuple(scores)})


def index():
    """The first page: what there is, and what the reader must know."""
    pages = sorted(p for p in OUT.glob("*.md") if p.name != "README.md")
    links = [f"- [{p.read_text().splitlines()[0].removeprefix('# ')}]({p.name})" for p in pages]
    failures = [
        f"| {n} | {kind} | {why} |"
        for n in methods.names()
        for kind, why in methods.get(n).expected_failures.items()
    ]
    text = INDEX.format(links="\n".join(links), failures="\n".join(failures))
    (OUT / "README.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="one of --list")
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--list", action="store_true", help="what there is to be made")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{place:28} {sheet.scenario}" for place, sheet in SHEETS.items()))
        return
    if wrong := [t for t in args.tables if t not in SHEETS]:
        parser.error(f"no table {wrong[0]!r}; there are {', '.join(SHEETS)}")
    bench = api.bench(args.store, args.device)
    for place in args.tables:
        reports, refused = fill(place, bench)
        page(place, reports, refused)
    index()


if __name__ == "__main__":
    main()
