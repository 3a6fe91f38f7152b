"""The command `attack`: tries to bring a concept back from a model that is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn.commands import console
from unlearn.commands.words import (
    LARGEST_SEED,
    Device,
    Json,
    Page,
    Plugins,
    StorePath,
    load_plugins,
    own,
    tried,
)
from unlearn.errors import BadValue, UnknownName

if TYPE_CHECKING:
    from unlearn.attack import Attack
    from unlearn.commands.runs import Job
    from unlearn.scenario import Scenario

INDEX = "model_index.json"
NOT_TOLD = "ink"  # scenario of a folder of which nothing else is said


def attack(
    target: Annotated[
        str,
        typer.Argument(help="Report file, address in the store, or folder of a pipeline that was edited."),
    ],
    attack: Annotated[list[str], tried()],
    concept: Annotated[str, typer.Option(help="What was erased; for a folder.")] = "",
    scenario: Annotated[str, typer.Option(help="Scenario that draws, for a folder; default: ink.")] = "",
    seed: Annotated[int, typer.Option(help="Seed, for a folder.", min=0, max=LARGEST_SEED)] = 0,
    model: Annotated[str | None, own("The pipeline before the edit: folder, or hub name.")] = None,
    preserve: Annotated[list[str] | None, own("What must stay; may be given several times.")] = None,
    judge: Annotated[str | None, own("Image classifier that knows the names: folder or hub name.")] = None,
    plugin: Plugins = None,
    html: Page = None,
    device: Device = "auto",
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Try to bring an erased concept back, from a report's model or from an edited pipeline of anybody's."""
    from unlearn import api
    from unlearn.commands import runs
    from unlearn.commands.pages import load

    load_plugins(plugin)
    tries = api.build_attacks(attack)
    joined = "|".join(preserve) if preserve else None
    told = Told(concept, scenario, seed, {"model": model, "preserve": joined, "judge": judge})
    with console.bars() as bars:
        on = api.bench(store, device, bars)
        if Path(target).is_dir():
            reports = [r for r, _ in told.job(Path(target), tries).run(on)]
        else:
            told.refuse()
            reports = [api.attack(r, on, tries) for r in load([target], on.store)]
    runs.show(reports, runs.write_page(reports, html, on.store), None, json)


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody says of a folder, which a report knows by itself.

    Attributes:
        concept: What was erased.
        scenario: Scenario that draws, with its options; nothing for the default.
        seed: Of drawings and attacks.
        own: The user's own model and judge, see `unlearn.commands.runs.erasing`.
    """

    concept: str
    scenario: str
    seed: int
    own: Mapping[str, Any]

    def refuse(self) -> None:
        """Refuses all of it.

        Raises:
            BadValue: If anything was said.
        """
        said = {"concept": self.concept, "scenario": self.scenario, "seed": self.seed, **self.own}
        if given := [f"--{name}" for name, value in said.items() if value]:
            raise BadValue(
                f"a report knows concept, scenario and seeds by itself; leave out {', '.join(given)}, or give the folder of a pipeline"
            )

    def asked(self) -> Scenario:
        """The scenario that draws.

        Raises:
            UnlearnError: If it does not know the concept; see `unlearn.commands.runs.erasing`.
        """
        from unlearn.commands import runs

        try:
            return runs.erasing(self.scenario or NOT_TOLD, [self.concept], self.own)
        except UnknownName as err:
            if self.scenario or self.own["model"]:
                raise
            raise BadValue(
                f"{err}; or name the pipeline before the edit with --model, and a --judge that knows your concept"
            ) from err

    def job(self, folder: Path, tries: Sequence[Attack]) -> Job:
        """The run that attacks the pipeline in a folder.

        Raises:
            UnlearnError: If there is no pipeline, or it is not said what was erased from which.
            BadWeights: If it was not made from the scenario's pipeline.
        """
        from unlearn import api
        from unlearn.commands import runs
        from unlearn.methods.given import Given, weights_for
        from unlearn.patch import weights_hash

        if not (folder / INDEX).is_file():
            raise BadValue(
                f"no pipeline in {folder}: it has no {INDEX}; give a folder that pipe.save_pretrained wrote, or a report"
            )
        if not self.concept:
            raise BadValue(f"nothing says what was erased from {folder}; name it with --concept")
        scenario = self.asked()
        runs.judged(scenario)
        original: Any = scenario.original()
        where = str(folder.resolve())
        weights = weights_hash(weights_for(original.module, where))
        metrics = [*api.named(["erasure"]), *tries]
        seeds = api.joint_seeds(self.seed, 1)
        return runs.Job(
            scenario, [Given(weights=where, sha256=weights)], seeds, metrics, 1, None, None, False
        )
