"""The workbench from Python: what the command line calls, and what a notebook calls."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from unlearn import hard, registry
from unlearn.attack import Attack
from unlearn.bench import Bench
from unlearn.errors import BadValue, NoEffect
from unlearn.in_place import erase_in_place
from unlearn.method import Method
from unlearn.metric import Metric
from unlearn.ops.naming import Naming
from unlearn.patch import weights_hash
from unlearn.plan import Plan, together
from unlearn.plan import plan as planned
from unlearn.pool import Pool
from unlearn.report import Report
from unlearn.request import parse as parse_request
from unlearn.runtime import Progress, Silent, pick_device, threads, within_memory
from unlearn.scenario import Scenario, Seeds, from_recipe, read_option
from unlearn.scenario import parse as parse_scenario
from unlearn.store import Store
from unlearn.subject import Subject
from unlearn.suites import DEFAULT, ORACLES, extras

Result = tuple[Report, Subject]


def run(
    method: str | Method[Any],
    scenario: str | Scenario = "digits",
    *,
    seed: int = 0,
    store: Store | Path | str | None = None,
    device: str = "auto",
    metrics: Sequence[str] | str = DEFAULT,
    **values: Any,
) -> Report:
    """Trains what is not there, unlearns, measures, and returns the report.

    Args:
        method: A registered name, or a method with its hyper-parameters.
        scenario: As on the command line, such as `digits/class=3`, or a scenario.
        seed: Of training, of the forget draw and of the method.
        store: Where results are kept; by default the user's cache folder or `UNLEARN_STORE`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        metrics: Names of the metrics, or of a suite: `basic`, `fast`, `standard` or `full`, see `unlearn.suites`.
        values: Hyper-parameters of a method given by name, such as `alpha=5.0`.

    Returns:
        The report of the last request of the scenario.

    Raises:
        NoEffect: If the method changed nothing; the report is in the store all the same.
        UnlearnError: In one line, for everything that the caller can mend.
    """
    built = build_method(method, values, own=True) if isinstance(method, str) else method
    on, seeds = bench(open_store(store).root, device), [Seeds(seed, seed, seed)]
    wanted = metrics if isinstance(metrics, str) else named(metrics)
    results = sweep(on, [built], as_scenario(scenario), seeds, wanted)
    effective([r for r, _ in results])
    return results[-1][0]


def effective(reports: Iterable[Report]) -> None:
    """Refuses runs of methods, other than controls, in which not one weight or buffer changed.

    The same weights answer every forgotten example bit by bit as before, whatever else a score says.

    Raises:
        NoEffect: With the first such run.
    """
    for report in reports:
        same = report.weights["unlearned"] == report.weights["original"]
        if same and not registry.methods.get(report.method).idle:
            raise NoEffect(
                f"{report.method} changed nothing on {report.scenario}: not one weight or buffer differs and every forgotten example is answered as before; check its hyper-parameters, such as a threshold that selects no weight (report {report.id[:12]} is kept)"
            )


def sweep(
    on: Bench,
    methods: Sequence[Method[Any]],
    scenario: Scenario,
    seeds: Iterable[Seeds],
    metrics: Sequence[Metric] | str = DEFAULT,
    oracles: int | None = None,
) -> list[Result]:
    """Every method with every seed on one scenario, each result as soon as it is made in the store.

    Where metrics ask for models of their own, what a run takes is predicted before it starts, and stands in its report.

    Args:
        on: Where to run.
        methods: The methods.
        scenario: Data, model, training recipe and request.
        seeds: The seeds.
        metrics: What to measure, or the name of a suite, of which what fits the scenario's subject is measured.
        oracles: Retrained references for each trial; as many as the suite shows when not given.

    Returns:
        Reports and unlearned subjects: by seed, then method, then request of the scenario.
    """
    pool, measured, shown = _set_up(on, scenario, metrics, oracles)
    found: list[Result] = []
    for one in seeds:
        for method in methods:
            if together(measured) or "pool" in method.reads():
                expected = planned(on, pool, [method], measured, [one], shown).seconds
                on = dataclasses.replace(on, planned=expected)
            found += on.run(pool, method, measured, one, shown)
    return found


def plan(
    on: Bench,
    methods: Sequence[Method[Any]],
    scenario: Scenario,
    seeds: Sequence[Seeds],
    metrics: Sequence[Metric] | str = DEFAULT,
    oracles: int | None = None,
) -> Plan:
    """What a sweep would train and compute, what of it is there, and what it takes; see `sweep` for the arguments."""
    pool, measured, shown = _set_up(on, scenario, metrics, oracles)
    return planned(on, pool, methods, measured, seeds, shown)


def _set_up(
    on: Bench, scenario: Scenario, metrics: Sequence[Metric] | str, oracles: int | None
) -> tuple[Pool, Sequence[Metric], int]:
    """The pool of a scenario, what is measured there, and how many oracles are shown."""
    pool, metrics = Pool(scenario, on.store, on.device, on.progress), metrics or DEFAULT
    measured = fitting(pool, metrics) if isinstance(metrics, str) else metrics
    for metric in measured:
        metric.accept(pool.template)
    return pool, measured, oracles or (ORACLES[metrics] if isinstance(metrics, str) else 1)


def harder(on: Bench, scenario: Scenario, by: str, seeds: Seeds) -> Scenario:
    """A scenario whose request is as large as the given one's, and hard; see `unlearn.hard.harder`."""
    return hard.harder(Pool(scenario, on.store, on.device, on.progress), by, seeds)


def replay(report: Report, on: Bench) -> tuple[Report, bool]:
    """Makes a report's run again from its recipe alone.

    Args:
        report: Of any run.
        on: With `fresh` set, so that nothing unlearned is taken from the store.

    Returns:
        The new report, and whether the unlearned weights are bit-identical.

    Raises:
        BadValue: If the report was made on another type of device.
    """
    return _again(report, on, [metric_from(m) for m in report.recipe["metrics"]])


def audit(report: Report, on: Bench, suite: str) -> Report:
    """Measures the unlearned model of a report with a suite, against the same original and oracles.

    Args:
        report: Of any run.
        on: Where to run.
        suite: See `unlearn.suites`.

    Raises:
        BadValue: If the report was made on another type of device, or its weights are not in the store and the code of
            today makes others.
    """
    pool = Pool(from_recipe(report.recipe["scenario"]), on.store, on.device, on.progress)
    return _same(report, on, fitting(pool, suite), ORACLES[suite])


def attack(report: Report, on: Bench, attacks: Sequence[Attack]) -> Report:
    """Attacks the unlearned model of a report, which comes from the store or is made again.

    Args:
        report: Of a run whose model draws.
        on: Where to run.
        attacks: What to try.

    Returns:
        A new report with the scores of `erasure` and of the attacks.

    Raises:
        BadValue: If the report was made on another type of device, or its weights are not in the store and the code of
            today makes others.
        Mismatch: If the model does not fit an attack.
    """
    return _same(report, on, [registry.metrics.get("erasure")(), *attacks])


def _same(report: Report, on: Bench, metrics: Sequence[Metric], oracles: int = 1) -> Report:
    """A report's run with other metrics, if its unlearned weights are the report's."""
    found, same = _again(report, on, metrics, oracles)
    if not same:
        raise BadValue(
            f"the weights of report {report.id[:12]} are not in the store, and its recipe makes others now; replay it first, or give the folder of its weights"
        )
    return found


def _again(report: Report, on: Bench, metrics: Sequence[Metric], oracles: int = 1) -> tuple[Report, bool]:
    """A report's run with these metrics and so many oracles at least, and whether its unlearned weights are the report's."""
    recipe = report.recipe
    if recipe["device"] != on.device.type:
        raise BadValue(
            f"this report was made on {recipe['device']}, the device here is {on.device.type}; give --device {recipe['device']}"
        )
    pool = Pool(from_recipe(recipe["scenario"]), on.store, on.device, on.progress)
    for metric in metrics:
        metric.accept(pool.template)
    method, seeds = method_from(recipe["method"]), Seeds(**recipe["seeds"])
    with threads(report.environment["threads"]):  # the order of sums depends on it
        results = on.run(pool, method, metrics, seeds, max(oracles, len(recipe["oracles"])))
    found, done = results[recipe["step"]]
    return found, weights_hash(done.module.state_dict()) == report.weights["unlearned"]


def erase(
    pipeline: Any,
    concept: str | Sequence[str | Sequence[str]],
    method: str | Method[Any] = "esd",
    *,
    preserve: Sequence[str] = (),
    anchor: str = "",
    seed: int = 0,
    **values: Any,
) -> Any:
    """Erases concepts from a diffusers text-to-image pipeline, in place, one after another.

    No second model is made, and nothing is drawn or measured; `unlearn erase --model` does that for a folder.
    Weights train in the type that they have, those in float16 in single precision, until they are put back.

    Args:
        pipeline: A StableDiffusionPipeline (1 or 2), StableDiffusionXLPipeline, StableDiffusion3Pipeline or
            FluxPipeline, or what was returned here before.
        concept: Name of what is to be erased, such as "Van Gogh", or several, one after another; those that are a
            sequence of their own, as in [("Van Gogh", "Monet")], at once.
        method: A registered name, for the setting that its authors published for such a pipeline where there is
            one, or a method with its hyper-parameters, such as `methods.get("esd").preset("sdxl")`.
        preserve: Names of what must stay, for methods that read some.
        anchor: Name of what takes the concept's place; the empty prompt when not given.
        seed: Of the method.
        values: Hyper-parameters of a method given by name, such as `iterations=200`.

    Returns:
        The pipeline. Where the method acts beside the weights, as SLD does and SPM whose strength goes by the prompt,
        a wrapper that is called in the same way and draws with it, see `unlearn.subjects._wrapped.Wrapped`; the
        pipeline itself then draws as before.

    Raises:
        UnlearnError: In one line, for everything that the caller can mend; weights may have changed by then only
            where it is memory that did not suffice.
    """
    if values and not isinstance(method, str):
        raise BadValue(f"{method.name} has its hyper-parameters already; leave out {', '.join(values)}")
    built = build_method(method, values, own=True) if isinstance(method, str) else method
    names = [concept] if isinstance(concept, str) else list(dict.fromkeys(concept))
    groups = [[name] if isinstance(name, str) else list(dict.fromkeys(name)) for name in names]
    asked = [[Naming(name, tuple(preserve), anchor) for name in group] for group in groups]
    with within_memory():
        return erase_in_place(pipeline, built, asked, seed)


def build_method(
    name: str, values: Mapping[str, Any] | None = None, preset: str = "", own: bool = False
) -> Method[Any]:
    """A method by name, with a published setting where one is named, and values on top.

    Args:
        name: Registered name.
        values: Hyper-parameters that differ from the setting.
        preset: The setting; without one the defaults.
        own: Whether it is for a pipeline of the user's own; then `Method.own` takes the place of the defaults.
    """
    cls = registry.methods.get(name)
    values, preset = values or {}, preset or (cls.own if own else "")
    built: Method[Any] = cls.preset(preset, **values) if preset else cls(**values)
    return built


def method_from(recipe: Mapping[str, Any]) -> Method[Any]:
    """A method from the JSON of a report."""
    built: Method[Any] = registry.methods.get(recipe["name"]).from_dict(recipe["values"])
    return built


def metric_from(recipe: Sequence[Any]) -> Metric:
    """A metric or an attack, whose names are disjoint, from the JSON of a report."""
    known = registry.attacks if recipe[0] in registry.attacks.names() else registry.metrics
    built: Metric = known.get(recipe[0]).from_dict(recipe[1])
    return built


def build_attacks(texts: Sequence[str]) -> list[Attack]:
    """Attacks as they are written on the command line.

    Raises:
        BadValue: If one is named twice, because scores go by its name.
    """
    built = [build_attack(text) for text in dict.fromkeys(texts)]
    names = [a.name for a in built]
    if twice := [n for n in names if names.count(n) > 1]:
        raise BadValue(f"attack {twice[0]} is given twice; give it once, and run again for another budget")
    return built


def build_attack(text: str) -> Attack:
    """An attack as it is written on the command line: `inversion`, `inversion/iterations=1000,lr=0.1`.

    Raises:
        UnknownName: If there is no such attack or field.
        BadValue: If a value cannot be read or is out of bounds.
    """
    name, _, rest = text.partition("/")
    cls = registry.attacks.get(name)
    known = {k.name: k for k in cls.knobs()}
    values = {}
    for word in filter(None, rest.split(",")):
        field, _, value = word.partition("=")
        if field not in known:
            raise registry.unknown(f"option of {name}", field, known)
        values[field] = read_option(known[field], value, name)
    built: Attack = cls(**values)
    return built


def named(names: Sequence[str]) -> list[Metric]:
    """Metrics by name, with their defaults.

    Raises:
        UnknownName: If there is no such metric.
    """
    return [registry.metrics.get(n)() for n in names]


def of_suite(suite: str) -> list[Metric]:
    """The metrics of a suite: the basic ones, and what it adds.

    Raises:
        UnknownName: If there is no such suite.
    """
    more = extras(suite)
    found = [registry.metrics.get(n) for n in registry.metrics.names()]
    own = [registry.metrics.get(name)(**values) for name, values in more.items()]
    return [*(cls() for cls in found if cls.basic and cls.name not in more), *own]


def fitting(pool: Pool, suite: str) -> list[Metric]:
    """Those of them that can measure a scenario's subject, with models of their own where they need some."""
    blind = pool.material.prompts_only  # then only what looks at nothing but the model itself can be measured
    way = pool.material.train.labels.way
    there = [m for m in of_suite(suite) if not m.ways or way in m.ways]
    fit = [m for m in there if isinstance(pool.template, m.needs) and (m.needs is Subject or not blind)]
    return [m for m in fit if pool.can_train() or not m.wants()]


def as_scenario(scenario: str | Scenario, forget: str = "", **options: Any) -> Scenario:
    """A scenario from its text; `forget` replaces the request that the text holds."""
    if isinstance(scenario, Scenario):
        return scenario
    return parse_scenario(scenario, parse_request(forget) if forget else None, **options)


def open_store(where: Store | Path | str | None = None) -> Store:
    """The store at a path, else at `UNLEARN_STORE`, else in the user's cache folder."""
    if isinstance(where, Store):
        return where
    chosen = where or os.environ.get("UNLEARN_STORE") or platformdirs.user_cache_path("unlearn")
    return Store(Path(chosen).expanduser())


def bench(
    store: Path | None = None, device: str = "auto", progress: Progress | None = None, **settings: Any
) -> Bench:
    """A bench on a store and a device, both chosen as in `run`; see `Bench` for the other settings."""
    return Bench(open_store(store), pick_device(device), progress or Silent(), **settings)


def joint_seeds(first: int, count: int, **fixed: int | None) -> list[Seeds]:
    """Seeds `first`, `first + 1`, ...; a source of chance named in `fixed` keeps its seed throughout."""
    held = {k: v for k, v in fixed.items() if v is not None}
    return [Seeds(**{**dict.fromkeys(("train", "draw", "method"), first + i), **held}) for i in range(count)]
