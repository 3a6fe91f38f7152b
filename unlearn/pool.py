"""Originals and oracles: trained on demand, kept by content, shared by every method and metric."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.audits import audit_views
from unlearn.checks import check_labels, check_weights, probe
from unlearn.concepts import asked, at_once
from unlearn.data import RESIDENT_BYTES, Resident, Stream
from unlearn.errors import BadValue, StoreError
from unlearn.ops.duplicates import in_both
from unlearn.ops.recipe import Recipe
from unlearn.patch import load_tensors, save_tensors, weights_hash
from unlearn.provenance import code_of
from unlearn.request import Labels, Request
from unlearn.runtime import Progress, Run, Silent, seeded_globals
from unlearn.scenario import (
    Material,
    Scenario,
    Seeds,
    Shelf,
    Trial,
    removed_classes,
    steps,
)
from unlearn.store import Entry, Store, address, read_json
from unlearn.subject import Subject, Trains


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its address in the store.

    Attributes:
        subject: The model.
        address: Of its weights: of the recipe if we trained it, of their hash if not.
        seconds: Training time, or None if somebody else trained it.
    """

    subject: Subject
    address: str
    seconds: float | None


class Pool:
    """Makes the models and trials of one scenario.

    Args:
        scenario: The recipe.
        store: Where trained models are kept.
        device: Where they live.
        progress: Draws progress.
        budget: Bytes up to which a data source is kept whole on the device.
    """

    def __init__(
        self,
        scenario: Scenario,
        store: Store,
        device: torch.device,
        progress: Progress | None = None,
        budget: int = RESIDENT_BYTES,
    ) -> None:
        self.scenario, self.store, self.device = scenario, store, device
        self.progress = progress or Silent()
        self.material: Material = scenario.material()
        self.shelf = Shelf(self.material, device, budget)
        self.given, self.template = scenario.original(), scenario.subject(torch.Generator())
        check_labels(self.material, self.template)

    def original(self, seed: int) -> Model:
        """The model before unlearning: somebody's, or trained on the whole training set."""
        if self.given is None:
            return self.trained(torch.ones(len(self.material.train.rows), dtype=torch.bool), seed, "original")
        return self._given(self.given)

    def _given(self, subject: Subject) -> Model:
        """A model that somebody trained."""
        subject.module.to(self.device)
        check_weights(subject)
        known = {
            "weights": weights_hash(subject.module.state_dict()),
            "material": self.material.content,
            "options": self.scenario.options(),
            "device": self.device.type,
        }
        return Model(subject, address(known), None)

    def trained(self, keep: Tensor, seed: int, what: str) -> Model:
        """A model trained by the scenario's recipe on some rows of the training set.

        Args:
            keep: Which rows, as a mask of shape (N,).
            seed: Of initial weights and training.
            what: Word for the progress bar: original or oracle.

        Raises:
            BadValue: If nothing is kept.
        """
        recipe, subject = self.recipe(keep, seed), self.fresh(seed)
        path = self.store.build("trained", recipe, self._train(subject, keep, seed, what))
        subject.module.load_state_dict(load_tensors(path / "weights.safetensors"))
        seconds: float = read_json(path / "info.json")["seconds"]
        return Model(subject, address(recipe), seconds)

    def recipe(self, keep: Tensor, seed: int) -> dict[str, Any]:
        """What makes a model that is trained on some rows, see `trained`; its hash is the model's address.

        Raises:
            BadValue: If nothing is kept.
        """
        if not keep.any():
            raise BadValue("nothing would be left to train on; ask to forget less")
        return {
            "scenario": self.scenario.name,
            "options": self.scenario.options(),
            "material": self.material.content,
            "subset": rows_digest(self.material.train.rows[keep]),
            "recipe": self._training(),
            "seed": seed,
            "device": self.device.type,
            "inputs": self.material.inputs or self.material.content,
            "code": code_of(type(self.scenario), type(self.template), modules=self.scenario.modules),
        }

    def fresh(self, seed: int) -> Any:
        """The untrained model of a seed."""
        subject = self.scenario.subject(torch.Generator().manual_seed(seed))
        subject.module.to(self.device)
        return subject

    def write(self, folder: Path, subject: Subject, keep: Tensor, seconds: float, what: str) -> None:
        """Writes a trained model into a folder of the store, see `trained`."""
        save_tensors(folder / "weights.safetensors", subject.module.state_dict())
        save_tensors(folder / "rows.safetensors", {"rows": self.material.train.rows[keep]})
        (folder / "info.json").write_text(json.dumps({"seconds": seconds, "what": what}))

    def kept(
        self, name: str, build: Callable[[], nn.Module], train: Callable[[nn.Module], None]
    ) -> nn.Module:
        """A network that looks at what models make, trained once on the CPU; no method ever sees it.

        Args:
            name: What tells it from the scenario's other ones.
            build: Returns it untrained.
            train: Trains it in place.
        """
        code = code_of(type(self.scenario), modules=self.scenario.modules)
        recipe = {
            "name": name,
            "scenario": self.scenario.name,
            "material": self.material.content,
            "code": code,
        }

        def make(folder: Path) -> None:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
            ):  # who looks first may be in no mood to train
                net = build()
                train(net)
            save_tensors(folder / "weights.safetensors", net.state_dict())

        path, net = self.store.build("judge", recipe, make), build()
        net.load_state_dict(load_tensors(path / "weights.safetensors"))
        return net.eval().requires_grad_(False)

    def rows_of(self, model: Model) -> Tensor:
        """Ids of the examples that a model of the store was trained on, with shape (n,).

        Raises:
            StoreError: If nobody wrote them down, so that nothing can be told from what it knows of them.
        """
        path = self.store.named("trained", model.address).path / "rows.safetensors"
        if not path.exists():
            raise StoreError(
                f"the training set of model {model.address[:12]} is unknown: {path} is missing, and evidence rests on who saw what; remove {path.parent} to train it again"
            )
        return load_tensors(path)["rows"]

    def _training(self) -> dict[str, Any] | None:
        """The recipe of original and oracle, for the report."""
        recipe: Recipe | None = self.template.recipe if isinstance(self.template, Trains) else None
        return recipe.describe() if recipe is not None else None

    def can_train(self) -> bool:
        """Whether there is a recipe, and with it an oracle."""
        return self._training() is not None

    def trial(
        self,
        seeds: Seeds,
        step: int = 0,
        previous: Model | None = None,
        oracles: int = 1,
    ) -> Trial:
        """One seeded realisation, its models trained or fetched.

        Args:
            seeds: The seeds.
            step: Which request of a sequence.
            previous: What the step before left behind.
            oracles: How many retrained references; two or more give noise floors.
        """
        request, forget, before = self.draw(seeds, step)
        train, kept, clean = self.material.train, ~(forget | before), self.clean(seeds, step)
        removed = removed_classes(train.labels, forget | before)
        now = tuple(c for c in removed if (train.labels.y[forget] == c).any())
        original = previous or self.original(seeds.train)
        handles, views = self._examples(forget, kept), {}
        if handles:
            probe(original.subject, handles["forget"])
            views = audit_views(request, self.material, removed, now, steps(self.scenario.request)[:step])
            read = {train.labels.way, *(v.base.partition("_")[0] for v in views.values())}
            extra = self.material.extra.items()
            handles |= {n: self.shelf.of(part) for n, part in extra if n.partition("_")[0] in read}
        prompts, gallery = asked(self.scenario, step)
        handles |= {name: self.shelf.on(source) for name, source in prompts.items()}
        if views and before.any():
            handles["forgotten"] = self.shelf.of(train, before)
        notes: tuple[str, ...] = ()
        made: list[Model] = []
        if (given := self.scenario.oracle(request)) is not None and self._alone(before):
            made = [self._given(given)]
            notes = (self.scenario.given_oracle,)
        elif self.can_train():
            notes = _identified(train.labels, kept, clean)
            made = [self.trained(clean, seeds.train + 1000 * (k + 1), "oracle") for k in range(oracles)]
        else:
            notes = (
                "No training recipe is known for this model, so there is no oracle: scores that need one cannot tell.",
            )
        if train.labels.groups and (both := in_both(train.labels.groups, forget, kept)):
            notes += (
                f"{len(both)} owners of forgotten examples own retained ones too, such as {both[0]}: what is theirs is not all gone.",
            )
        facts = {"original_seconds": original.seconds, "oracle_seconds": made[0].seconds if made else None}
        sizes = {name: len(h) for name, h in handles.items()}
        return Trial(
            self.scenario, request, seeds, original.subject, [m.subject for m in made], handles,
            views, removed, train.labels.classes, original.address,
            [m.address for m in made], {**facts, "sizes": sizes, "step": step, "material": self.material.content,
             "inputs": self.material.inputs or self.material.content, "training": self._training()}, notes,
            gallery, clean=clean, critics=self.scenario.critics(self.kept),
        )  # fmt: skip

    def clean(self, seeds: Seeds, step: int) -> Tensor:
        """What an oracle of a step may see, as a mask of shape (N,)."""
        labels = self.material.train.labels
        unseen = [r.unseen(labels, mask) for r, mask in drawn(self.scenario, labels, seeds.draw)[: step + 1]]
        return ~torch.stack(unseen).any(0)

    def sketch(self, seeds: Seeds) -> Trial:
        """The first step of a trial around an untrained model: enough to time a method on."""
        request, forget, before = self.draw(seeds, 0)
        train = self.material.train
        handles = self._examples(forget, ~(forget | before))
        removed = removed_classes(train.labels, forget | before)
        subject = self.given.clone() if self.given is not None else self.fresh(seeds.train)
        return Trial(
            self.scenario, request, seeds, subject, [], handles, {}, removed, train.labels.classes, ""
        )

    def _alone(self, before: Tensor) -> bool:
        """Whether nothing else was or is forgotten with a request."""
        return not before.any() and not at_once(self.scenario.request)

    def _examples(self, forget: Tensor, kept: Tensor) -> dict[str, Resident | Stream]:
        """Handles on the examples; none where there are only prompts."""
        m = self.material
        if m.prompts_only:
            return {}
        found = {
            "forget": self.shelf.of(m.train, forget),
            "retain": self.shelf.of(m.train, kept),
            "validation": self.shelf.of(m.validation),
            "fit": self.shelf.of(m.fit),
            "test": self.shelf.of(m.test),
        }
        if m.surrogate is not None:
            found["surrogate"] = self.shelf.on(m.surrogate)
        return found

    def draw(self, seeds: Seeds, step: int) -> tuple[Request, Tensor, Tensor]:
        """The request of a step, what it forgets, and what the steps before forgot, as masks (N,)."""
        every = drawn(self.scenario, self.material.train.labels, seeds.draw)
        *earlier, (request, forget) = every[: step + 1]
        before = torch.zeros_like(forget)
        for _, gone in () if at_once(self.scenario.request) else earlier:
            before |= gone
        for each, rows in every:
            if not rows.any():
                raise BadValue(f"{each}: all of it was forgotten by an earlier request; leave it out")
        if (forget | before).all():
            raise BadValue(
                f"{self.scenario.request}: this is the whole training set; nothing would be left to retain"
            )
        return request, forget, before

    def _train(self, subject: Any, keep: Tensor, seed: int, what: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            run = Run(seed, self.device, self.progress, task=f"train {what}")
            started = time.perf_counter()
            with seeded_globals(seed, self.device):
                subject.fit(self.shelf.of(self.material.train, keep), run)
            self.write(folder, subject, keep, time.perf_counter() - started, what)

        return make


def _identified(labels: Labels, kept: Tensor, clean: Tensor) -> tuple[str, ...]:
    """What a reader must know where not all that was spoilt is forgotten, and the oracle saw none of it."""
    if labels.spoilt is None or not (kept & ~clean).any():
        return ()
    n, known = int(labels.spoilt.sum()), int((labels.spoilt & ~kept).sum())
    return (f"The oracle never saw any of the {n} spoilt examples, of which {known} were identified.",)


def rows_digest(rows: Tensor) -> str:
    """Hash of a list of example ids."""
    return weights_hash({"rows": rows.cpu().long()})[:32]


def set_digest(handle: Any, inputs: bool = False) -> str:
    """Hash of which examples a handle holds, of their targets and of what happens to their inputs.

    The inputs themselves are known by the material's content, but for surrogates, which are no part of it.
    """
    seen = handle.source.fetch(handle.rows).cpu() if inputs else handle.rows[:0].cpu()
    return (
        rows_digest(handle.rows)
        + weights_hash({"y": handle.y.cpu(), "x": seen})[:16]
        + repr(handle.transform)
    )


def holders(scenario: Scenario, draw: int, store: Store) -> list[Entry]:
    """Results in a store that still hold the examples that a request forgets.

    These are models trained on any of them, models that were unlearned from such a model (their patches
    belong to it), what these said or drew of anything and others of these examples, and reports that picture forgotten
    examples or what these models drew.

    Args:
        scenario: With the request.
        draw: Seed of the forget draw.
        store: Where to look.
    """
    material = scenario.material()
    inputs = material.inputs or material.content
    forget = torch.stack([mask for _, mask in drawn(scenario, material.train.labels, draw)]).any(0)
    ids = set(material.train.rows[forget].tolist())
    trained = list(store.entries("trained"))
    unlearned = list(store.entries("unlearned"))
    these = (e for e in trained if e.recipe["inputs"] == inputs)
    found = [e for e in these if ids & set(load_tensors(e.path / "rows.safetensors")["rows"].tolist())]
    models = {e.address for e in found}
    made_here = {e.address for e in (*trained, *unlearned)}
    for entry in unlearned:
        given = entry.recipe["material"] == material.content and entry.recipe["base"] not in made_here
        if given or entry.recipe["base"] in models:
            found.append(entry)
            models |= {entry.address, entry.recipe["base"]}
    for entry in store.entries("outputs"):
        rows = entry.path / "arrays.safetensors"
        ours = entry.recipe["inputs"] == inputs and ids & set(load_tensors(rows)["rows"].tolist())
        found += [entry] if ours or entry.recipe["model"] in models else []
    reports = (e for e in store.entries("report") if e.recipe["base"] in models)
    return [*found, *(e for e in reports if e.recipe["show_forgotten"] or _draws(e))]


def _draws(report: Entry) -> bool:
    """Whether a report shows what models drew or filled in."""
    figures = json.loads((report.path / "report.json").read_text())["figures"]
    return bool(figures.get("drawings") or figures.get("completions"))


def drawn(scenario: Scenario, labels: Labels, draw: int) -> list[tuple[Request, Tensor]]:
    """The requests of a scenario with what each forgets that none before did, as masks of shape (N,).

    Requests that are served at once forget what any of them names.
    """
    found: list[tuple[Request, Tensor]] = []
    before = torch.zeros(len(labels.y), dtype=torch.bool)
    for k, request in enumerate(steps(scenario.request)):
        forget = torch.zeros_like(before)
        forget[request.rows(labels, torch.Generator().manual_seed(draw + 7919 * k))] = True
        found.append((request, forget & ~before))
        before |= forget
    return [(request, before) for request, _ in found] if at_once(scenario.request) else found
