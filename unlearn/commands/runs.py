"""Commands that make results: run and replay."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich

from unlearn import api, hard
from unlearn.bench import Bench
from unlearn.commands import console
from unlearn.commands.options import chosen_options
from unlearn.commands.pages import load
from unlearn.errors import BadValue, StoreError
from unlearn.method import Method
from unlearn.metric import Metric
from unlearn.ops.weights import FromPipeline, edit_of, save_like
from unlearn.patching import write_folder
from unlearn.policy import Policy
from unlearn.policy import read as read_policy
from unlearn.registry import metrics, scenarios
from unlearn.report import Report
from unlearn.report.summary import groups
from unlearn.request import KINDS, ForgetConcept, ForgetSequence
from unlearn.runtime import within_memory
from unlearn.scenario import Scenario, Seeds, parse
from unlearn.scenario import steps as in_turn
from unlearn.store import Store
from unlearn.subject import Subject


@dataclass(frozen=True, slots=True)
class Job:
    """What `unlearn run` or `unlearn erase` was asked for.

    Attributes:
        scenario: Data, model, training recipe and request.
        methods: The methods, in order.
        seeds: The seeds, in order.
        metrics: What to measure, or the name of a suite.
        oracles: Retrained references for each trial; None for as many as the suite shows.
        html: Where to write the page, or None for the store.
        out: Where to write the unlearned weights, or None for nowhere.
        json: Whether to print JSON.
        difficulty: Harder forget sets of the same size to try beside the one that was asked for, see `hard.harder`.
    """

    scenario: Scenario
    methods: Sequence[Method[Any]]
    seeds: Sequence[Seeds]
    metrics: Sequence[Metric] | str
    oracles: int | None
    html: Path | None
    out: Path | None
    json: bool
    difficulty: Sequence[str] = ()

    def run(self, bench: Bench) -> list[api.Result]:
        """Does it.

        Raises:
            BadValue: If one file was asked for and several models would be made.
            OutOfMemory: If memory does not suffice.
        """
        if self.out is not None and (len(self.methods) > 1 or len(self.seeds) > 1):
            raise BadValue(
                f"--out writes one model, but {len(self.methods)} methods and {len(self.seeds)} seeds were asked for; give one of each"
            )
        if self.out is not None and self.difficulty:
            raise BadValue(
                "--out writes the model of the request, and --difficulty makes others; leave out one of them"
            )
        hard.known(self.difficulty)
        with within_memory():
            found = api.sweep(bench, self.methods, self.scenario, self.seeds, self.metrics, self.oracles)
            for by in self.difficulty:
                asked = api.harder(bench, self.scenario, by, self.seeds[0])
                more = api.sweep(bench, self.methods, asked, self.seeds, self.metrics, self.oracles)
                n = len(in_turn(asked.request))
                found += more[n - 1 :: n]  # of requests one after another the last, after all of them
        return found

    def show_plan(self, bench: Bench) -> None:
        """Prints what it would take.

        Raises:
            BadValue: If harder forget sets were asked for, whose choice trains models itself.
        """
        if self.difficulty:
            raise BadValue(
                f"--plan knows no forget set that is chosen later, got --difficulty {','.join(self.difficulty)}; leave out one of them"
            )
        found = api.plan(bench, self.methods, self.scenario, self.seeds, self.metrics, self.oracles)
        if self.json:
            console.say_json(found.to_dict())
            return
        rows = [
            (i.what, str(i.needed), str(i.there), minutes(i.seconds), f"{i.disk / 1e6:.1f}")
            for i in found.items
        ]
        rows.append(("in all", "", "", minutes(found.seconds), f"{found.disk / 1e6:.1f}"))
        console.table(["what", "needed", "in the store", "time", "MB on disk"], rows)
        console.say(
            f"Memory: about {found.memory / 2**20:.0f} MiB for models and data, beside what Python and torch take."
        )

    def show(self, results: Sequence[api.Result], store: Store) -> None:
        """Writes weights and page, and prints the tables.

        Raises:
            NoEffect: After that, if a method changed nothing.
        """
        if self.out is not None:
            save(results[-1][1], self.out, self.scenario, results[-1][0].recipe["method"])
        reports = [r for r, _ in results]
        show(reports, write_page(reports, self.html, store), self.out, self.json)
        api.effective(reports)


def scenario(text: str, forget: str, own: Mapping[str, Any]) -> Scenario:
    """The scenario of a command: its text, the request that replaces its own, and the options given."""
    if own.get("model"):
        if text not in ("digits", "custom") and not text.startswith("custom/"):
            raise BadValue(
                f"--subject brings its own data, so it does not go with --scenario {text}; give the request with --forget"
            )
        text = text if text.startswith("custom") else "custom"
    options = chosen_options(own, scenarios.get(text.partition("/")[0]))
    return api.as_scenario(text, forget, **options)


def erasing(text: str, concepts: Sequence[str], own: Mapping[str, Any], together: bool = False) -> Scenario:
    """The scenario in which some concepts are erased.

    Args:
        text: A scenario without a request, such as `ink` or `ink/drawings=2`.
        concepts: Their names.
        own: Options of the command about the user's own model.
        together: Whether at once, not one after another.

    Raises:
        BadValue: If the scenario draws nothing, its text holds a request, or it is not for the user's own model.
        UnknownName: If it does not know a concept; no large model is loaded before.
    """
    if own.get("model") and text.partition("/")[0] != "pipeline":
        if text != "ink":
            raise BadValue(
                f"--model goes with --scenario pipeline and its options, such as pipeline/steps=20, got {text}; leave one out"
            )
        text = "pipeline"
    asked = tuple(ForgetConcept(concept=c) for c in dict.fromkeys(concepts))
    if any(word.partition("=")[0] in KINDS for word in text.partition("/")[2].split(",")):
        raise BadValue(
            f"--scenario {text} holds a request; name the concepts as words, as in `unlearn erase {asked[0].concept}`"
        )
    options = chosen_options(own, scenarios.get(text.partition("/")[0]))
    built = parse(
        text, asked[0] if len(asked) == 1 else ForgetSequence(steps=asked, together=together), **options
    )
    for request in asked:
        if built.gallery(request) is None:
            raise BadValue(
                f"scenario {built.name!r} draws nothing, so no concept can be erased; choose one that draws, such as ink"
            )
    return built


def judged(scenario: Scenario) -> None:
    """Refuses a scenario in which nobody looks whether a drawing shows the concept.

    Raises:
        BadValue: If there is no such judge; nothing is drawn before.
    """
    for request in in_turn(scenario.request):
        gallery = scenario.gallery(request)
        if gallery is None or gallery.axis not in gallery.judges:
            raise BadValue(
                "an attack needs a judge that sees whether a drawing shows the concept; name an image classifier with --judge"
            )


def vacant(out: Path) -> None:
    """Refuses a folder that is in use, before hours are spent on what shall go there."""
    if out.suffix != ".safetensors" and out.exists() and (out.is_file() or any(out.iterdir())):
        raise BadValue(f"{out} is there already; choose a new place with --out")


def exportable(out: Path, method: Method[Any]) -> None:
    """Refuses a folder for a model that is more than its weights, before hours are spent on it."""
    if out.suffix != ".safetensors" and method.beside():
        raise BadValue(
            f"{method.name} acts beside the pipeline's own weights, which plain diffusers would leave out of a folder; give --out FILE.safetensors, or another method"
        )


def save(subject: Subject, out: Path, scenario: Scenario, notes: Mapping[str, Any]) -> None:
    """Writes unlearned weights in the format that they came in; beside a pipeline's, the patch.

    Args:
        subject: The model.
        out: A folder or file.
        scenario: What was asked for; it has the model before that.
        notes: What the patch says of itself.
    """
    source = subject.source if isinstance(subject, FromPipeline) else ""
    before = scenario.original() if source and out.suffix != ".safetensors" else None
    try:
        if before is None:
            save_like(subject, out)
        else:
            edit = edit_of(before, subject, {"method": notes, "request": str(scenario.request)})
            write_folder(edit, Path(source), out)
    except OSError as err:
        raise StoreError(
            f"cannot write {out}: {err.strerror or err}; choose another place with --out"
        ) from err


def policy(path: Path | None, suite: str) -> Policy | None:
    """The policy of a file; without one, that of this package where a suite measures what it asks for."""
    asked = path is not None or suite in ("standard", "full")
    return read_policy(path, metrics.names()) if asked else None


def minutes(seconds: float) -> str:
    """A time for a person."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def write_page(reports: Sequence[Report], html: Path | None, store: Store) -> Path:
    """Renders reports as one page.

    Args:
        reports: What to show.
        html: Where to write it; by default in the store, by content.
        store: The store.
    """
    from unlearn.report import html as page

    name = hashlib.sha256(" ".join(r.id for r in reports).encode()).hexdigest()[:16]
    path = html or store.root / "pages" / f"{name}.html"
    page.write(reports, path)
    return path


def show(reports: Sequence[Report], page: Path, out: Path | None, json: bool) -> None:
    """Prints reports as tables with their verdict, or as JSON; last comes the page's path."""
    if json:
        console.say_json([r.model_dump(mode="json") for r in reports])
        return
    from unlearn.report import table

    table.show(rich.get_console(), reports)
    if out is not None:
        console.say(f"Unlearned weights: {out}")
    console.say(f"Report: {page}")


def replay(runs: Sequence[str], bench: Bench, json: bool) -> bool:
    """Makes the runs of reports again and says of each whether its weights are the same; whether all are."""
    found = []
    for report in load(runs, bench.store):
        again, same = api.replay(report, bench)
        found.append({"method": report.method, "scenario": report.scenario, "seeds": report.seeds,
                      "identical": same, "weights": again.weights})  # fmt: skip
        if not json:
            said = "are bit-identical" if same else "differ"
            console.say(f"{groups([report])[0].title}: the unlearned weights {said}")
    if json:
        console.say_json(found)
    return all(f["identical"] for f in found)
