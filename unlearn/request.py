"""What to forget, as data: small values that are written as `class=3`, `random=0.1`, `indices=ids.txt`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from unlearn.errors import BadValue
from unlearn.knobs import Declared, knob
from unlearn.labels import Labels as Labels
from unlearn.labels import between, plain
from unlearn.positions import is_file, positions
from unlearn.registry import unknown


class Request(Declared, ABC):
    """A choice of training examples to be forgotten."""

    kind: ClassVar[str]
    parts: ClassVar[bool] = False
    """Whether held-out examples like the forgotten ones are scored apart from the others."""

    @abstractmethod
    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """Sorted positions of the examples to forget, with shape (n,).

        Raises:
            BadValue: If nothing is chosen, or a name or position does not exist.
        """

    def unseen(self, labels: Labels, forget: Tensor) -> Tensor:
        """What a model must not have seen to show what unlearning aims at, as a mask of shape (N,).

        Args:
            labels: Of the training set.
            forget: What this request forgets, as a mask of shape (N,).
        """
        return forget

    @abstractmethod
    def __str__(self) -> str:
        """The request as it is written on the command line."""


class ForgetClass(Request):
    """All examples of a class, `class=3` or `class=ship`, or of several at once, `class=3:5`."""

    kind: ClassVar[str] = "class"
    label: str = knob(..., "number or name of the class, or several joined by :")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        names = [self.label] if self.label in labels.classes else self.label.split(":")
        ids = [class_id(name, labels.classes, "class") for name in names]
        _once(str(self), [labels.classes[i] if labels.classes else str(i) for i in ids])
        return _chosen(torch.isin(labels.y, torch.tensor(ids)), self)

    def __str__(self) -> str:
        return f"class={self.label}"


class ForgetSubclass(Request):
    """All examples of a finer class than the model predicts: `subclass=rocket`."""

    kind: ClassVar[str] = "subclass"
    label: str = knob(..., "number or name of the sub-class")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        if labels.fine is None:
            raise BadValue(
                f"{self}: these data have no sub-classes; ask for class=, random=, indices= or group="
            )
        return _chosen(labels.fine == class_id(self.label, labels.fine_classes, "sub-class"), self)

    def __str__(self) -> str:
        return f"subclass={self.label}"


class ForgetRandom(Request):
    """A random share of the training set: `random=0.1`."""

    kind: ClassVar[str] = "random"
    fraction: float = knob(..., "share of the training set", gt=0, lt=1)

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        n = len(labels.y)
        order = torch.randperm(n, generator=rng, device=rng.device).cpu()
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[order[: round(self.fraction * n)]] = True
        return _chosen(chosen, self)

    def __str__(self) -> str:
        return f"random={self.fraction:g}"


class ForgetIndices(Request):
    """Examples by position in the training set: `indices=ids.txt` or `indices=1:5:8`."""

    kind: ClassVar[str] = "indices"
    indices: tuple[int, ...] = knob(..., "positions in the training data as they were given, from 0")
    label: str = knob("", "what they have in common, in one word for tables")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        ids = torch.arange(len(labels.y)) if labels.ids is None else labels.ids.cpu()
        here = set(ids.tolist())
        if outside := [i for i in self.indices if i not in here]:
            where = f"positions {ids.min()} to {ids.max()}"
            held = "" if labels.ids is None else ", less those that are held out"
            raise BadValue(
                f"indices: {outside[0]} is outside the training set, which has {where}{held} ({len(outside)} such)"
            )
        return _chosen(torch.isin(ids, torch.tensor(self.indices)), self)

    def __str__(self) -> str:
        if len(self.indices) <= 8:
            return "indices=" + ":".join(map(str, self.indices))
        mark = hashlib.sha256(repr(sorted(self.indices)).encode()).hexdigest()[:8]
        return f"indices={len(self.indices)} {self.label + ' ' if self.label else ''}examples ({mark})"


class ForgetGroup(Request):
    """All examples of one owner, such as a person: `group=alice`."""

    kind: ClassVar[str] = "group"
    group: str = knob(..., "name in the group column")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        if labels.groups is None:
            raise BadValue(
                f"{self}: these data have no group column; name one with --group-column or ask for class=, random= or indices="
            )
        if self.group not in labels.groups:
            raise unknown("group", self.group, sorted(set(labels.groups)))
        return _chosen(torch.tensor([g == self.group for g in labels.groups]), self)

    def __str__(self) -> str:
        return f"group={self.group}"


class ForgetRange(Request):
    """All examples whose target lies in a range, both ends included: `range=25:80`."""

    kind: ClassVar[str] = "range"
    parts: ClassVar[bool] = True
    low: float = knob(..., "smallest target to forget, in the unit of the targets", ge=-1e300)
    high: float = knob(..., "largest target to forget", le=1e300)

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        if not self.low <= self.high:
            raise BadValue(f"{self}: the range is empty; write the smaller end first, as in range=0:2")
        inside = between(labels.y, self.low, self.high, str(self))
        return _chosen(inside, self)

    def __str__(self) -> str:
        return f"range={plain(self.low)}:{plain(self.high)}"


class ForgetConcept(Request):
    """All examples that show a concept, and the concept itself: `concept=three` or `concept=red ink`."""

    kind: ClassVar[str] = "concept"
    concept: str = knob(..., "name of a class or sub-class of the data")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        if self.concept in labels.classes:
            return _chosen(labels.y == labels.classes.index(self.concept), self)
        if labels.fine is not None and self.concept in labels.fine_classes:
            return _chosen(labels.fine == labels.fine_classes.index(self.concept), self)
        raise unknown("concept", self.concept, [*labels.classes, *labels.fine_classes])

    def __str__(self) -> str:
        return f"concept={self.concept}"


class ForgetSpoilt(Request, ABC):
    """Examples that were spoilt on purpose, all of them or the share that was identified.

    Where only a share is identified, the aim is a model that saw none of them (corrective unlearning).

    References:
        Goel et al., 2024, Corrective machine unlearning, arXiv:2402.14015
    """

    what: ClassVar[str]
    """What these data would have to hold."""
    option: ClassVar[str]
    """Option of a scenario that puts it there."""
    share: float = knob(1.0, "share of the spoilt examples that was identified", gt=0, le=1)

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """See `Request.rows`."""
        if labels.spoilt is None or labels.way != self.kind:
            raise BadValue(
                f"{self.kind}: these data have no {self.what}; add it to the scenario, as in digits/{self.kind},{self.option}"
            )
        if self.share == 1:
            return _chosen(labels.spoilt, self)
        found = labels.spoilt.nonzero().flatten()
        order = torch.randperm(len(found), generator=rng, device=rng.device).cpu()
        known = torch.zeros_like(labels.spoilt)
        known[found[order[: round(self.share * len(found))]]] = True
        return _chosen(known, self)

    def unseen(self, labels: Labels, forget: Tensor) -> Tensor:
        """Everything that was spoilt, identified or not."""
        return forget if labels.spoilt is None else forget | labels.spoilt

    def __str__(self) -> str:
        return self.kind if self.share == 1 else f"{self.kind}={self.share:g}"


class ForgetNoise(ForgetSpoilt):
    """Examples whose label was made wrong at random: `noisy`, or `noisy=0.1` if a tenth of them is known."""

    kind: ClassVar[str] = "noisy"
    what: ClassVar[str] = "label noise"
    option: ClassVar[str] = "noise=0.1"


class ForgetConfusion(ForgetSpoilt):
    """Examples of two classes whose labels were swapped: `confused`, or `confused=0.1`."""

    kind: ClassVar[str] = "confused"
    what: ClassVar[str] = "swapped labels"
    option: ClassVar[str] = "confuse=3:5"


class ForgetPoison(ForgetSpoilt):
    """Examples that carry the patch and the label of a backdoor: `poisoned`, or `poisoned=0.1`."""

    kind: ClassVar[str] = "poisoned"
    what: ClassVar[str] = "backdoor"
    option: ClassVar[str] = "backdoor=0.05"


class ForgetCanaries(ForgetSpoilt):
    """Examples that carry a mark of their own and a random label: `planted`, or `planted=0.5`."""

    kind: ClassVar[str] = "planted"
    what: ClassVar[str] = "canaries"
    option: ClassVar[str] = "canaries=20"


SPOILT = {c.kind: c for c in (ForgetNoise, ForgetConfusion, ForgetPoison, ForgetCanaries)}
"""Requests that name what was spoilt on purpose, by the way in which it was."""


class ForgetSequence(Request):
    """Several requests one after another, `class=3+class=5`, or several concepts at once, `concept=three&concept=four`."""

    kind: ClassVar[str] = "sequence"
    steps: tuple[Request, ...] = knob(..., "the requests, in order")
    together: bool = knob(False, "whether one unlearning serves them all")

    def rows(self, labels: Labels, rng: Generator) -> Tensor:
        """Everything that any of the requests names; the bench serves them one by one."""
        rows: Tensor = torch.cat([s.rows(labels, rng) for s in self.steps]).unique()
        return rows

    def __str__(self) -> str:
        return ("&" if self.together else "+").join(map(str, self.steps))

    def to_dict(self) -> dict[str, Any]:
        """Steps with their kinds."""
        return {"steps": [request_dict(s) for s in self.steps], "together": self.together}


KINDS: dict[str, type[Request]] = {
    c.kind: c for c in (ForgetClass, ForgetSubclass, ForgetRandom, ForgetIndices, ForgetGroup, ForgetConcept, ForgetRange,
                        *SPOILT.values(), ForgetSequence)
}  # fmt: skip


def parse(text: str) -> Request:
    """Reads a request as it is written on the command line.

    Args:
        text: `class=3`, `subclass=rocket`, `random=0.1`, `range=25:80`, `group=alice`, `indices=1:5:8`, the path of a file with
            one position in each line, what was spoilt on purpose (`noisy`, `confused`, `poisoned`, `planted`, or
            the identified share of it, `noisy=0.1`), or several of these joined by `+`; what has no kind there has
            that of the one before, as in `class=3+5`. Concepts may be joined by `&`, to be erased at once.

    Raises:
        BadValue: If it is none of these, or names a class twice.

    Example:
        >>> [str(step) for step in parse("class=3+5:7+random=0.1").steps]
        ['class=3', 'class=5:7', 'random=0.1']
    """
    if "&" in text and not is_file(text.removeprefix("indices=")):
        return at_once([parse(t) for t in text.split("&")])
    if "+" in text and not is_file(text.removeprefix("indices=")):
        return _in_turn(text)
    kind, _, value = text.partition("=")
    if kind in SPOILT:
        return SPOILT[kind](share=_number(value, text) if "=" in text else 1.0)
    if kind in ("class", "subclass") and value:
        return ForgetClass(label=value) if kind == "class" else ForgetSubclass(label=value)
    if kind == "concept" and value:
        return ForgetConcept(concept=value)
    if kind == "group" and value:
        return ForgetGroup(group=value)
    if kind == "random" and value:
        return ForgetRandom(fraction=_number(value, text))
    if kind == "range" and value.count(":") == 1:
        low, high = (_number(end, text) for end in value.split(":"))
        return ForgetRange(low=low, high=high)
    if kind == "indices" and value:
        return ForgetIndices(indices=positions(value))
    if not value and is_file(text):
        return ForgetIndices(indices=positions(text))
    raise BadValue(
        f"cannot read the request {text!r}; write class=3, class=3:5 for both at once, subclass=rocket, random=0.1, range=25:80, group=alice, concept=three, noisy, confused, poisoned, planted, indices=1:5:8 or the path of a file with one position in each line, joined by + for several"
    )


def _in_turn(text: str) -> ForgetSequence:
    """Requests joined by `+`."""
    words: list[str] = []
    for word in text.split("+"):
        alone = "=" in word or word in SPOILT or not words or "=" not in words[-1] or is_file(word)
        words.append(word if alone else f"{words[-1].partition('=')[0]}={word}")
    steps = tuple(map(parse, words))
    _once(text, [name for s in steps if isinstance(s, ForgetClass) for name in s.label.split(":")])
    return ForgetSequence(steps=steps)


def _once(text: str, names: Sequence[str]) -> None:
    if twice := [n for n in names if names.count(n) > 1]:
        raise BadValue(f"{text}: class {twice[0]} is named twice, and can be forgotten once; leave one out")


def at_once(asked: Sequence[Request]) -> ForgetSequence:
    """Several concepts to be erased by one unlearning; anything else among them is refused."""
    if other := [r for r in asked if not isinstance(r, ForgetConcept)]:
        raise BadValue(
            f"{other[0]} cannot be forgotten at once with something else; join concepts by &, and everything else by +, one after another"
        )
    return ForgetSequence(steps=tuple(asked), together=True)


def request_dict(request: Request) -> dict[str, Any]:
    """A request as JSON; `request_from` turns it back."""
    return {"kind": request.kind, **request.to_dict()}


def request_from(values: dict[str, Any]) -> Request:
    """Builds a request from its JSON."""
    fields = {k: v for k, v in values.items() if k != "kind"}
    if values["kind"] == "sequence":
        return ForgetSequence(
            steps=tuple(request_from(s) for s in fields["steps"]), together=fields.get("together", False)
        )
    return KINDS[values["kind"]].from_dict(fields)


def class_id(label: str, classes: Sequence[str], what: str) -> int:
    """The id of a class given by number or name.

    Raises:
        BadValue: If there is no such class.
    """
    if label in classes:
        return list(classes).index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:25]) + (", ..." if len(classes) > 25 else "")
    raise BadValue(f"no {what} called {label!r}; there are {len(classes)}: {shown}")


def _chosen(mask: Tensor, request: Request) -> Tensor:
    rows = mask.cpu().nonzero().flatten()
    if not len(rows):
        raise BadValue(
            f"{request}: no training example fits, the forget set is empty; choose one that the training set holds"
        )
    if len(rows) == len(mask):
        raise BadValue(
            f"{request}: this is the whole training set of {len(mask)}; nothing would be left to retain, train a new model instead"
        )
    return rows


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise BadValue(f"{text}: {value!r} is no number; write a share such as random=0.1") from None
