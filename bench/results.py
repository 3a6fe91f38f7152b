"""Makes the tables of docs/results/: every method on the embedded scenarios, four on CIFAR-10 class removal, and those that
fit a model that completes images on digits and MNIST.

    python bench/results.py digits
    python bench/results.py diabetes-range
    python bench/results.py california-range --data data/tabular
    python bench/results.py sts-range --data data/sts
    python bench/results.py cifar10 --data data/cifar10 --weights data/weights/resnet20-12fca82f.th
    python bench/results.py completion --data data/mnist

A run whose JSON is there is skipped. Tables are written from the JSON files, good or bad; nothing is left out.
"""

import argparse
from pathlib import Path

from unlearn import api
from unlearn.errors import UnlearnError
from unlearn.pool import Pool
from unlearn.registry import fitting, methods
from unlearn.report import Report, markdown
from unlearn.report.reproduce import command
from unlearn.report.summary import groups
from unlearn.request import KINDS
from unlearn.scenario import Seeds
from unlearn.scenario import parse as scenario

OUT = Path(__file__).parents[1] / "docs" / "results"
DIGITS = ("digits/class=3", "digits/random=0.1", "digits/noisy,noise=0.1")
CIFAR = "cifar10/class={c},network=resnet20,normalise=imagenet,limit={limit},test_limit=2000"
RANGES = {
    "diabetes-range": "diabetes/range=25:80",
    "california-range": "california-housing/range=0:1",
    "sts-range": "sts/range=0:2,limit=1200,width=32,length=16,epochs=15",
}
EIGHT = (
    "retrain",
    "none",
    "finetune",
    "neggrad-plus",
    "random-labels",
    "salun",
    "gaussian-amnesiac",
    "blindspot",
)
COMPLETION = ("digits-completion/class=3", "mnist-completion/class=3,limit=1500,test_limit=1000,epochs=15")
COMPLETING = (
    *(
        (n, "")
        for n in (
            "retrain",
            "none",
            "finetune",
            "neggrad-plus",
            "random-labels",
            "salun",
            "bad-teacher",
            "i2i",
        )
    ),
    *(("i2i", p) for p in ("max-loss", "noisy-label", "retain-label", "random-encoder")),
)
FOUR = ("none", "salun", "ssd", "duck", "scar")

INDEX = """# Results

{links}
- [How the defaults were chosen](tuning/README.md)

Every table has the oracle's row and the row of doing nothing, and every run's raw JSON is beside it. The verdicts follow
the rules that each report states. Four things to know before reading them:

- **Clean digits give a membership attack little power.** On `digits/random=0.1` the original answers the forgotten tenth as
  the oracle does, and the loss attack tells the two apart by 0.05 of AUC, the threshold itself: what the table shows is who
  over-forgets or does damage. Label noise (`digits/noisy,noise=0.1`) is where forgetting can be measured.
- **Class removal is told by 37 held-out examples of the class**, so the AUC of the attack is known to about 0.1 over three
  seeds; *too close to call* means exactly that.
- **CIFAR-10 has no oracle here.** The pretrained ResNet-20 comes without its recipe, so what needs a reference is missing.
  The defaults were tuned on digits and only DUCK's carry over: SalUn's steps are too large for this network and 2,000
  images (held-out accuracy falls from 93 to 71-76 %), SCAR's cost 8 to 11 points, and SSD at α = 9 selects too little,
  as the forget share of a tenth bounds the ratio of importances at ten.
- **Erasing from the embedded pipeline is harder than it looks.** Of a style only SalUn, which reads real images, leaves
  nothing; of a digit SalUn, SPM, SLD, SLUG and ESD leave little, at the price of neighbours. A single learnt word brings the
  digit back from ESD, SPM and SLUG.

## Expected failures at the default

| method | request | why |
|---|---|---|
{failures}
"""


def slug(text):
    """Folder of a scenario: its name and request, without the options that say where data are."""
    name, _, rest = text.partition("/")
    request = [w for w in rest.split(",") if w.partition("=")[0] in KINDS]
    return "-".join([name, *request]).replace("=", "-")


def once(pool, bench, name, seed, folder, preset=""):
    """The report of one run, made now if its JSON is not there; None if the method refuses the scenario."""
    path = folder / f"{name}{'-' + preset if preset else ''}-seed-{seed}.json"
    if path.exists():
        return Report.load(path)
    try:
        measured = api.fitting(pool, "basic")
        ((report, _),) = bench.run(
            pool, api.build_method(name, {}, preset), measured, Seeds(seed, seed, seed)
        )
    except UnlearnError as err:
        print(f"{name}: {err}", flush=True)
        return None
    report = report.model_copy(update={"figures": {}})
    report.save(path)
    print(f"{folder.name}: {name}, seed {seed}: {report.costs.seconds:.1f} s", flush=True)
    return report


def page(folder, title, reports, note):
    """One table over all methods, oracle and do-nothing row included, with the commands."""
    lines = [f"# {title}", "", note, "", *markdown.comparison(groups(reports)), ""]
    env = reports[0].environment
    lines += [f"Made at commit {env.get('commit', '?')[:10]} on {env['platform']}, {env['device']}, "
              f"torch {env['packages']['torch']}. Raw JSON: [{folder.name}/]({folder.name}/). Commands:", "", "```sh"]  # fmt: skip
    lines += dict.fromkeys(command(r) for r in reports)
    (OUT / f"{folder.name}.md").write_text("\n".join([*lines, "```", ""]))


def sweep(bench, texts, names, seeds, note, place=""):
    """Runs methods, each a name or a pair of name and preset, on scenarios, and writes a page of each."""
    runs = [n if isinstance(n, tuple) else (n, "") for n in names]
    for text in texts:
        folder = OUT / (place or slug(text))
        folder.mkdir(parents=True, exist_ok=True)
        pool = Pool(scenario(text) if isinstance(text, str) else text, bench.store, bench.device)
        found = [once(pool, bench, n, s, folder, p) for s in seeds for n, p in runs]
        page(folder, f"{text.partition(',')[0]}", [r for r in found if r], note)


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
    parser.add_argument("what", choices=["digits", "cifar10", "completion", *RANGES])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--data", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--methods", nargs="*", default=[], help="of regressors; eight when not given")
    parser.add_argument(
        "--only", nargs="*", default=[], help="some of the scenarios on digits, as they are written"
    )
    args = parser.parse_args()
    bench = api.bench(args.store, "cpu")
    if args.what == "digits":
        note = "Mean ± half-width of the 95 % t-interval over three seeds. Methods at their defaults."
        names = [n for n in fitting("classifier") if n != "given"]
        sweep(bench, args.only or DIGITS, names, (0, 1, 2), note)
        index()
        return
    if args.what in RANGES:
        note = (
            "Mean ± half-width of the 95 % t-interval over three seeds. Methods at their defaults; errors are mean absolute ones, "
            "in the unit of the targets. The request forgets all training examples whose target lies in the range."
        )
        text = RANGES[args.what] + (f",data={args.data}" if args.data else "")
        sweep(bench, [text], args.methods or EIGHT, (0, 1, 2), note, place=args.what)
        index()
        return
    if args.what == "completion":
        note = (
            "A hole in the centre of each digit is filled in. Mean ± half-width of the 95 % t-interval over three seeds. "
            "Methods at their defaults, which are tuned on classifiers but for i2i's, or at a preset that names a baseline of I2I."
        )
        for text in args.only or [t for t in COMPLETION if args.data or "mnist" not in t]:
            place = f",data={args.data}" if "mnist" in text else ""
            sweep(bench, [text + place], COMPLETING, (0, 1, 2), note)
        return
    note = (
        "The original is a pretrained ResNet-20 whose training recipe is unknown, so there is no oracle and the scores that "
        f"need one cannot tell. Methods at their defaults, on {args.limit} training and 2,000 test images."
    )
    texts = [
        CIFAR.format(c=c, limit=args.limit) + f",data={args.data},weights={args.weights}"
        for c in ("ship", "cat", "deer")
    ]
    sweep(bench, texts, FOUR, (0,), note)
    index()


if __name__ == "__main__":
    main()
