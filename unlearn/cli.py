"""The command line: thin words over `unlearn.api`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from unlearn.commands import attacks, console, evaluate, evidence, patches
from unlearn.commands.words import (
    LARGEST_SEED,
    Device,
    Fresh,
    Json,
    Measured,
    Minutes,
    Oracles,
    Page,
    Plugins,
    PolicyFile,
    ShowForgotten,
    StorePath,
    load_plugins,
    own,
    tried,
)
from unlearn.errors import UnlearnError
from unlearn.suites import DEFAULT, extras

ERASER = "esd"  # method of `unlearn erase` where none is named
LISTINGS = ("methods", "metrics", "attacks", "scenarios")


def fixed(what: str) -> Any:
    """An option that holds one source of chance."""
    return typer.Option(help=f"Fixes the seed {what}.", min=0, max=LARGEST_SEED)


def run(
    methods: Annotated[
        list[str], typer.Argument(help="Methods, see `unlearn methods`.", autocompletion=lambda: _names())
    ],
    scenario: Annotated[
        str, typer.Option(help="Data, model and request, see `unlearn scenarios`.")
    ] = "digits",
    seed: Annotated[int, typer.Option(help="First seed.", min=0, max=LARGEST_SEED)] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds, from the first one up.", min=1)] = 1,
    train_seed: Annotated[int | None, fixed("of training")] = None,
    draw_seed: Annotated[int | None, fixed("of the forget draw")] = None,
    method_seed: Annotated[int | None, fixed("of the method")] = None,
    oracles: Oracles = None,
    preset: Annotated[str, typer.Option(help="Published setting, such as paper.")] = "",
    metrics: Measured = "",
    suite: Annotated[str, typer.Option(help="Set of metrics: basic, fast, standard or full.")] = DEFAULT,
    attack: Annotated[list[str] | None, tried()] = None,
    plugin: Plugins = None,
    subject: Annotated[str | None, own("FILE.py:FUNCTION, model folder or hub name.")] = None,
    forget: Annotated[str, own("Request, or a file with one position in each line.")] = "",
    data: Annotated[str | None, own("Data folder or hub name.")] = None,
    weights: Annotated[str | None, own("Weights of the original.")] = None,
    head: Annotated[str | None, own("Name of the last layer.")] = None,
    group_column: Annotated[str | None, own("Column that names owners.")] = None,
    out: Annotated[Path | None, own("Where to write the unlearned weights.")] = None,
    html: Page = None,
    show_forgotten: ShowForgotten = False,
    policy: PolicyFile = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take, and stop.")] = False,
    difficulty: Annotated[
        str, typer.Option(help="Harder sets of that size, too: memorised,easy,worst,alike,sequential.")
    ] = "",
    device: Device = "auto",
    minutes: Minutes = None,
    fresh: Fresh = False,
    store: StorePath = None,
    json: Json = False,
    values: Any = None,
) -> None:
    """Unlearn with one or several methods, and report beside the retrained oracle."""
    from unlearn import api
    from unlearn.commands import runs
    from unlearn.commands.options import split_names

    given = {"model": subject, "data": data, "weights": weights, "head": head, "group_column": group_column}
    extras(suite)
    built = [api.build_method(m, values.get(m, {}), preset) for m in dict.fromkeys(methods)]
    order = api.joint_seeds(seed, seeds, train=train_seed, draw=draw_seed, method=method_seed)
    asked, tries = runs.scenario(scenario, forget, given), api.build_attacks(attack or ())
    if tries:
        runs.judged(asked)
    wanted = [*api.named(split_names(metrics)), *tries] or suite
    job = runs.Job(asked, built, order, wanted, oracles, html, out, json, split_names(difficulty))
    held = runs.policy(policy, suite)
    with console.bars() as bars:
        on = api.bench(
            store, device, bars, minutes=minutes, fresh=fresh, show_forgotten=show_forgotten, policy=held
        )
        results = None if plan else job.run(on)
    job.show_plan(on) if results is None else job.show(results, api.open_store(store))


def erase(
    concepts: Annotated[
        list[str],
        typer.Argument(help="Concepts: names that the scenario knows, or words for your own model."),
    ],
    together: Annotated[bool, typer.Option("--together", help="Erase them at once.")] = False,
    method: Annotated[
        str, typer.Option(help="Method, see `unlearn methods`.", autocompletion=lambda: _names())
    ] = ERASER,
    scenario: Annotated[str, typer.Option(help="Scenario that draws, with its options.")] = "ink",
    seed: Annotated[int, typer.Option(help="Seed.", min=0, max=LARGEST_SEED)] = 0,
    preset: Annotated[
        str,
        typer.Option(
            help="Published setting; with --model, its authors' for such a pipeline is the default."
        ),
    ] = "",
    metrics: Annotated[str, typer.Option(help="Metrics, joined by commas.")] = "erasure,memory,run-time,read",
    attack: Annotated[list[str] | None, tried()] = None,
    plugin: Plugins = None,
    model: Annotated[str | None, own("Folder of a diffusers pipeline, or hub name.")] = None,
    preserve: Annotated[list[str] | None, own("What must stay; may be given several times.")] = None,
    anchor: Annotated[str | None, own("What takes the concept's place; by default the empty prompt.")] = None,
    judge: Annotated[str | None, own("Image classifier that knows the names: folder or hub name.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for the edited pipeline, or .safetensors file for its weights."),
    ] = None,
    html: Page = None,
    device: Device = "auto",
    minutes: Minutes = None,
    fresh: Fresh = False,
    store: StorePath = None,
    json: Json = False,
    values: Any = None,
) -> None:
    """Erase concepts from a model that draws, one after another or at once, and show what it draws."""
    from unlearn import api
    from unlearn.commands import runs
    from unlearn.commands.options import split_names

    joined = "|".join(preserve) if preserve else None
    given = {"model": model, "preserve": joined, "anchor": anchor, "judge": judge}
    if out is not None:
        runs.vacant(out)
    tries = api.build_attacks(attack or ())
    asked = runs.erasing(scenario, concepts, given, together)
    built = api.build_method(method, values.get(method, {}), preset, own=asked.name == "pipeline")
    if out is not None:
        runs.exportable(out, built)
    if tries:
        runs.judged(asked)
    job = runs.Job(
        asked, [built],
        api.joint_seeds(seed, 1), [*api.named(split_names(metrics)), *tries], 1, html, out, json,
    )  # fmt: skip
    with console.bars() as bars:
        results = job.run(api.bench(store, device, bars, minutes=minutes, fresh=fresh))
    job.show(results, api.open_store(store))


def methods_(json: Json = False, plugin: Plugins = None) -> None:
    """List the methods and the subjects that each one fits."""
    from unlearn.commands import listings

    load_plugins(plugin)
    listings.every("methods", json)


def metrics_(json: Json = False, plugin: Plugins = None) -> None:
    """List the metrics."""
    from unlearn.commands import listings

    load_plugins(plugin)
    listings.every("metrics", json)


def attacks_(json: Json = False, plugin: Plugins = None) -> None:
    """List the attacks that try to bring an erased concept back."""
    from unlearn.commands import listings

    load_plugins(plugin)
    listings.every("attacks", json)


def scenarios_(json: Json = False, plugin: Plugins = None) -> None:
    """List the scenarios and how requests are written."""
    from unlearn.commands import listings

    load_plugins(plugin)
    listings.every("scenarios", json)


def show(
    name: Annotated[
        str, typer.Argument(help="A method, metric, attack or scenario.", autocompletion=lambda: _names())
    ],
    json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Explain a method: what it does, reference, hyper-parameters, subjects, data."""
    from unlearn.commands import listings

    load_plugins(plugin)
    listings.show(name, json)


def report(
    runs_: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Report file, or address in the store.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a report.")] = False,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Show reports again, as tables, a page, markdown or JSON."""
    from unlearn.commands import pages

    pages.report(runs_ or [], html, markdown, schema, store, json)


def compare(
    runs_: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Report files, or addresses in the store.")
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Put several runs into one table."""
    from unlearn.commands import pages

    pages.compare(runs_, html, store, json)


def replay(
    runs_: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Report file, or address in the store.")
    ],
    plugin: Plugins = None,
    device: Device = "auto",
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Make the runs of reports again, and check that the weights are the same bit for bit."""
    from unlearn import api
    from unlearn.commands import runs

    load_plugins(plugin)
    with console.bars() as bars:
        same = runs.replay(runs_, api.bench(store, device, bars, fresh=True), json)
    if not same:
        raise typer.Exit(1)


def check(
    file: Annotated[Path, typer.Argument(help="Python file that registers plugins.")],
    json: Json = False,
) -> None:
    """Run the conformance kit on somebody's plugin."""
    from unlearn.commands import kit

    if not kit.check(file, json):
        raise typer.Exit(1)


def ls(store: StorePath = None, json: Json = False) -> None:
    """List what the store holds."""
    from unlearn.commands import housekeeping

    housekeeping.ls(store, json)


def verify(store: StorePath = None, json: Json = False) -> None:
    """Find damaged results."""
    from unlearn.commands import housekeeping

    if not housekeeping.verify(store, json):
        raise typer.Exit(1)


def gc(store: StorePath = None, json: Json = False) -> None:
    """Remove damaged results and what interrupted processes left behind."""
    from unlearn.commands import housekeeping

    housekeeping.gc(store, json)


def purge(
    request: Annotated[str, typer.Argument(help="Scenario and request, such as digits/class=3.")],
    seed: Annotated[int, typer.Option(help="Seed of the forget draw.", min=0)] = 0,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Remove everything that still holds the forgotten data: models trained on it, what they said of it, every page."""
    from unlearn.commands import housekeeping

    housekeeping.purge(request, seed, store, json)


def _names() -> list[str]:
    from unlearn.registry import methods

    return methods.names()


def build(argv: Sequence[str] = ()) -> typer.Typer:
    """The application; the words after `run` and `erase` decide which hyper-parameters these offer."""
    from unlearn.commands.options import with_method_options, words_of

    app = typer.Typer(
        name="unlearn",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Forget on request, and prove it.",
    )
    asked = argv[0] if argv else ""
    app.command("run")(with_method_options(run, words_of(argv) if asked == "run" else []))
    app.command("erase")(with_method_options(erase, words_of(argv, ERASER) if asked == "erase" else []))
    for name, function in (("methods", methods_), ("metrics", metrics_), ("attacks", attacks_), ("scenarios", scenarios_),
                           ("show", show), ("attack", attacks.attack), ("evaluate", evaluate.evaluate), ("audit", evidence.audit),
                           ("oracles", evidence.oracles), ("policy", evidence.policy), ("difficulty", evidence.difficulty), ("report", report),
                           ("compare", compare), ("replay", replay), ("check", check)):  # fmt: skip
        app.command(name)(function)
    store = typer.Typer(no_args_is_help=True, help="Look after the folder of results.")
    for command in (ls, verify, gc, purge):
        store.command()(command)
    app.add_typer(store, name="store")
    app.add_typer(patches.group(), name="patch")
    return app


def main() -> None:
    """Entry point: errors are one line on standard error; 2 for the user's, 130 for Ctrl-C."""
    argv = sys.argv[1:]
    try:
        code = 0 if _listing(argv) else _typed(argv)
    except UnlearnError as err:
        console.complain(str(err))
        code = err.exit_code
    except TyperException as err:
        console.complain(
            f"{err.format_message()}{_given(err, argv)} See: unlearn {' '.join(argv[:1])} --help"
        )
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    if code == 130:
        console.complain("interrupted; what was finished is kept, run the same command again to go on")
        sys.stdout.flush()
        os._exit(130)  # Python may remember an interrupt inside exec() and end by the signal instead
    sys.exit(code if isinstance(code, int) else 0)


def _listing(argv: Sequence[str]) -> bool:
    """Prints a plain table at once: typer would import pydantic to check options that are not there."""
    if len(argv) != 1 or argv[0] not in LISTINGS:
        return False
    from unlearn.commands import listings

    listings.every(argv[0], json=False)
    return True


def _typed(argv: Sequence[str]) -> Any:
    completing = "_UNLEARN_COMPLETE" in os.environ and "COMP_WORDS" in os.environ
    words = os.environ["COMP_WORDS"].split()[1:] if completing else argv
    return build(words)(argv, prog_name="unlearn", standalone_mode=False)


def _given(err: TyperException, argv: Sequence[str]) -> str:
    """What was given for the option that an error is about; the parser's own message leaves it out."""
    names = err.param.opts if isinstance(err, typer.BadParameter) and err.param else []
    values = (v for name, v in itertools.pairwise(argv) if name in names)
    return f", got {value!r}." if (value := next(values, None)) else ""
