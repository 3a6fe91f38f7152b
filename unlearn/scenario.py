"""Scenarios are recipes (data, model, training, request); a trial is one seeded realisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor

from unlearn import request as requests
from unlearn.data import RESIDENT_BYTES, Peers, Resident, Stream, handle
from unlearn.errors import BadValue
from unlearn.gallery import Critics, Gallery, Keep
from unlearn.knobs import Declared, Knob, knob
from unlearn.metric import Crowd, View
from unlearn.registry import scenarios, unknown
from unlearn.request import ForgetSequence, Labels, Request
from unlearn.sources import Relabeled, Source, Transform, as_float
from unlearn.subject import Subject


@dataclass(frozen=True, slots=True)
class Seeds:
    """The three sources of chance, kept apart.

    Attributes:
        train: Of the original's and the oracle's training.
        draw: Of the choice of forgotten examples.
        method: Of the unlearning method.
    """

    train: int = 0
    draw: int = 0
    method: int = 0

    def to_dict(self) -> dict[str, int]:
        """As JSON."""
        return {"train": self.train, "draw": self.draw, "method": self.method}


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a source, with what requests may look at.

    Attributes:
        source: Where the examples are.
        rows: Positions in it, with shape (n,).
        labels: Classes, sub-classes, groups of these rows, in order.
    """

    source: Source
    rows: Tensor
    labels: Labels


@dataclass(frozen=True, slots=True)
class Material:
    """The data of a scenario, divided so that nothing is scored on what fitted or tuned it.

    Attributes:
        train: What the original is trained on.
        validation: For tuning and stopping rules; never scored.
        fit: Held out, to fit membership attacks.
        test: Held out, to score everything.
        content: Hash of the data.
        transform: Applied to inputs on the device.
        inputs: Hash of the examples without what was done to their labels; the same as `content` if empty.
        prompts_only: Whether there are prompts and no inputs; then no set of examples is lent or scored.
        surrogate: Out-of-distribution inputs, or None.
        extra: Where training examples were spoilt, held-out ones spoilt in the same way, see `unlearn.ops.spoiling`:
            all that can be, `poisoned_test` and `poisoned_fit`, and as many as in the training set, `mixed_test`
            and `mixed_fit`. No method is lent them.
    """

    train: Part
    validation: Part
    fit: Part
    test: Part
    content: str
    transform: Transform = as_float
    surrogate: Source | None = None
    inputs: str = ""
    prompts_only: bool = False
    extra: Mapping[str, Part] = field(default_factory=dict)


class Scenario(Declared, ABC):
    """Data, model, training recipe and request; everything but the seeds."""

    name: ClassVar[str] = ""
    default_request: ClassVar[str] = "class=3"
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules beside the scenario's own whose code decides what is trained."""
    given_oracle: ClassVar[str] = (
        "Original and oracle were trained before and are shipped, so that there is one of each."
    )
    """What a reader must know of an oracle that `oracle` returns, in one sentence."""
    request: Request = knob(..., "what to forget")

    @abstractmethod
    def material(self) -> Material:
        """The data, the same for every seed."""

    @abstractmethod
    def subject(self, rng: Generator) -> Subject:
        """The untrained model, with its training recipe."""

    def original(self) -> Subject | None:
        """A model that somebody trained before; None means that the recipe trains one."""
        return None

    def oracle(self, request: Request) -> Subject | None:
        """A model that somebody trained before without what a request forgets, or None."""
        return None

    def prompts(self, request: Request) -> Mapping[str, Source]:
        """Sources of the sets `concept`, `anchor` and `preserve` of a request, and of `prompts` to be drawn.

        And, where it knows other wordings, of `paraphrases`: one of each prompt that asks for the concept, in the order
        of these prompts, then a second of each, and so on.
        """
        return {}

    def gallery(self, request: Request) -> Gallery | None:
        """What the drawings of `prompts` are judged by, or None where nothing is drawn.

        Raises:
            UnlearnError: If the request names no concept of this scenario; nothing large is loaded before.
        """
        return None

    def critics(self, keep: Keep) -> Critics | None:
        """Who looks at completed images, or None where no image is completed.

        Args:
            keep: Trains a network once and keeps it, and is not called before somebody looks.
        """
        return None

    def options(self) -> dict[str, Any]:
        """Fields other than the request, as JSON."""
        return {k: v for k, v in self.model_dump(mode="json", exclude={"request"}).items()}

    def __str__(self) -> str:
        """The scenario as it is written on the command line."""
        defaults = {k.name: k.default for k in type(self).knobs()}
        extra = [f",{k}={_word(v)}" for k, v in self.options().items() if v != defaults[k]]
        return f"{self.name}/{self.request}{''.join(extra)}"

    def recipe(self) -> dict[str, Any]:
        """JSON from which `from_recipe` builds the scenario again."""
        return {
            "name": self.name,
            "request": requests.request_dict(self.request),
            "options": self.options(),
            "text": str(self),
        }


def parse(text: str, request: Request | None = None, **options: Any) -> Scenario:
    """Reads a scenario as it is written on the command line.

    Args:
        text: A name, a request, and options: `digits`, `digits/class=3`, `digits/random=0.1,noise=0.1`.
        request: Replaces the one in the text.
        options: Added to those in the text.

    Raises:
        UnknownName: If there is no such scenario.
        BadValue: If the request or an option cannot be read.
    """
    name, _, rest = text.partition("/")
    cls = scenarios.get(name)
    known = {k.name: k for k in cls.knobs() if k.name != "request"}
    words = [w for w in rest.split(",") if w]
    given = {w.partition("=")[0]: w.partition("=")[2] for w in words if w.partition("=")[0] in known}
    asked = [w for w in words if w.partition("=")[0] not in known]
    for word in asked:
        kind = word.partition("=")[0].split("+")[0]
        if kind not in requests.KINDS and "=" in word:
            raise unknown(f"option or request of {name}", kind, [*known, *requests.KINDS])
    if len(asked) > 1:
        raise BadValue(
            f"{text}: {' and '.join(asked)} are two requests; join several with +, as in class=3+class=5"
        )
    chosen = request or requests.parse(asked[0] if asked else cls.default_request)
    read = {k: read_option(known[k], v, name) for k, v in given.items()}
    built: Scenario = cls(request=chosen, **{**read, **options})
    return built


def from_recipe(values: Mapping[str, Any]) -> Scenario:
    """Builds a scenario from its JSON."""
    cls = scenarios.get(values["name"])
    built: Scenario = cls.from_dict(
        {**values["options"], "request": requests.request_from(values["request"])}
    )
    return built


def read_option(k: Knob, text: str, name: str) -> Any:
    """The value of an option that was written as text after `name/`.

    Raises:
        BadValue: If it is of another type.
    """
    kinds: dict[Any, Callable[[str], Any]] = {
        int: int,
        float: float,
        bool: lambda t: {"true": True, "false": False}[t.lower()],
    }
    try:
        return kinds.get(k.type, str)(text)
    except (ValueError, KeyError):
        raise BadValue(f"{name}: {k.name} must be {k.kind}, got {text!r} (default {k.default!r})") from None


def _word(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


class Lenders(Protocol):
    """Trains the models that methods are lent, see `unlearn.data.Peers`."""

    def addresses(self, trial: Trial, kind: str, n: int) -> list[str]:
        """Addresses in the store of the models of a trial, whether or not they are there."""
        ...

    def lend(self, trial: Trial, kind: str, n: int) -> Peers:
        """The models of a trial, trained or fetched."""
        ...


@dataclass(slots=True)
class Trial:
    """One seeded realisation of a scenario: models and handles, ready for a method.

    Attributes:
        scenario: What it realises.
        request: What is forgotten in this step of it.
        seeds: The seeds.
        original: The model before unlearning.
        oracles: Models retrained without the forget set; none where there is no recipe.
        handles: `forget`, `retain`, `validation`, `fit`, `test`, and where there are any `surrogate`, `concept`,
            `anchor`, `preserve`, `prompts`, `paraphrases` and those of `Material.extra`.
        views: Rows of these sets under names of their own.
        removed: Ids of the classes of which no training example is retained.
        base: Address of the original.
        oracle_bases: Addresses of the oracles.
        facts: Training times and sizes for the report.
        notes: Limits of this trial, in sentences.
        gallery: What drawings are judged by, where the subjects draw.
        crowds: Trains or fetches n models of a kind, see `unlearn.crowds`.
        clean: Which training examples a reference may see, as a mask of shape (N,); what is retained if None.
        lenders: Trains or fetches the models that a method is lent, where models can be trained.
        critics: Who looks at completed images, where the subjects complete some.
    """

    scenario: Scenario
    request: Request
    seeds: Seeds
    original: Subject
    oracles: list[Subject]
    handles: dict[str, Resident | Stream]
    views: dict[str, View]
    removed: tuple[int, ...]
    classes: tuple[str, ...]
    base: str
    oracle_bases: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gallery: Gallery | None = None
    crowds: Callable[[str, int], Crowd] | None = None
    clean: Tensor | None = None
    lenders: Lenders | None = None
    critics: Critics | None = None


def steps(request: Request) -> tuple[Request, ...]:
    """The requests to serve one after another: several of a sequence, else the one."""
    return request.steps if isinstance(request, ForgetSequence) else (request,)


class Shelf:
    """Puts the sources of a material on the device once; handles share the memory.

    Args:
        material: The data.
        device: Where they go.
        budget: Bytes up to which a source is kept whole on the device.
    """

    def __init__(self, material: Material, device: torch.device, budget: int = RESIDENT_BYTES) -> None:
        self.material, self.device, self.budget = material, device, budget
        self._made: dict[int, Resident | Stream] = {}

    def of(self, part: Part, rows: Tensor | None = None) -> Resident | Stream:
        """A handle on a part, or on some of its rows given by position, with shape (n,)."""
        return self.on(part.source).take(part.rows if rows is None else part.rows[rows])

    def on(self, source: Source) -> Resident | Stream:
        """A handle on a whole source."""
        inner = source.inner if isinstance(source, Relabeled) else source
        if id(inner) not in self._made:
            self._made[id(inner)] = handle(inner, self.material.transform, None, self.device, self.budget)
        made = self._made[id(inner)]
        if inner is source:
            return made
        if isinstance(made, Resident):
            return made.relabeled(source.y)
        return Stream(source, made.transform, None, made.device, made.workers)


def removed_classes(labels: Labels, forget: Tensor) -> tuple[int, ...]:
    """Ids of the classes of which every training example is in `forget`, a mask of shape (N,)."""
    if labels.y.is_floating_point():
        return ()
    kept = set(labels.y[~forget].tolist())
    return tuple(sorted(set(labels.y[forget].tolist()) - kept))


def stratified(y: Tensor, shares: tuple[float, ...], rng: Generator) -> list[Tensor]:
    """Divides examples into parts with the same share of every class.

    Args:
        y: Labels, with shape (N,).
        shares: Share of each part; the last takes the rest.
        rng: Source of the choice.

    Returns:
        Sorted positions of each part.
    """
    parts: list[list[Tensor]] = [[] for _ in shares]
    for c in y.unique():
        rows = (y == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=rng)]
        cuts = [round(sum(shares[: i + 1]) * len(rows)) for i in range(len(shares) - 1)]
        for part, chunk in zip(parts, torch.tensor_split(rows, cuts), strict=True):
            part.append(chunk)
    return [torch.cat(p).sort().values for p in parts]
