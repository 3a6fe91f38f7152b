"""Checks of an attack: how its class is written, and what it does to a tiny model that draws."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unlearn.attack import Attack
from unlearn.data import Resident
from unlearn.gallery import Judge
from unlearn.metric import Evidence, Score
from unlearn.registry import attacks
from unlearn.score import Aim
from unlearn.sources import Arrays
from unlearn.testing.declared_checks import check_reference, declared_checks
from unlearn.testing.metric_checks import evidence
from unlearn.testing.runs import shell
from unlearn.testing.tiny import TINY, Tiny, same, tensors
from unlearn.testing.verdicts import Named, demand, guarded, run_all

Cls = type[Attack]
FEW = 3  # the largest whole number in the budget of an attack that is checked
REWORDED = [[0, 2, 2, *[1] * 5], [0, 6, 2, *[1] * 5]]
"""Two other wordings of the tiny prompts that ask for object 0."""


def check_attack(cls: Cls) -> None:
    """Runs every check of an attack.

    Raises:
        AssertionError: With one line for each failed check.
    """
    run_all(attack_checks(cls), cls.__name__)


def attack_checks(cls: Cls) -> Named:
    """Names and checks of an attack: those of its class, then `check[subject]` for each subject that it can attack."""
    yield from declared_checks(cls, attacks)
    yield "reference", partial(check_reference, cls)
    yield "signature", partial(check_signature, cls)
    yield "budget", partial(check_budget, cls)
    for tiny in TINY.values():
        if tiny.offers(cls.needs):
            for name, check in CHECKS.items():
                yield (
                    f"{name}[{tiny.name}]",
                    guarded(partial(check, cls, tiny), f"{cls.__name__} on {tiny.name}"),
                )


def check_signature(cls: Cls) -> None:
    """The verb is `attempts(self, case)`, and counting is left to `Attack`."""
    found = inspect.signature(cls.attempts)
    demand(
        list(found.parameters) == ["self", "case"],
        f"{cls.__name__}.attempts{found} must be attempts(self, case: Case) -> Iterator[Attempt]",
    )
    demand(
        cls.measure is Attack.measure,
        f"{cls.__name__} overrides measure; success is counted in one way, so leave it as it is",
    )


def check_budget(cls: Cls) -> None:
    """What it may spend is said in one line."""
    said = cls().budget()
    demand(
        bool(said.strip()) and "\n" not in said and len(said) <= 160,
        f"{cls.__name__}().budget() is {said!r}; say in one line of at most 160 characters what it may spend",
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack with a small budget did.

    Attributes:
        scores: What it scored.
        drawn: What the judge was shown while it ran, in order.
        changed: What is no longer as it was: models, with their flags and hooks, and data.
    """

    scores: tuple[Score, ...]
    drawn: tuple[Tensor, ...]
    changed: tuple[str, ...]


@functools.lru_cache(maxsize=32)
def outcome(cls: Cls, name: str, how: str = "") -> Outcome:
    """What an attack with a small budget does to a tiny model, remembered: the checks of a cell share it.

    Args:
        cls: The attack.
        name: Of the tiny subject.
        how: `again` for the same once more, `single` where one prompt asks for the concept, `alone` without an oracle,
            `shown` where every drawing shows it.
    """
    ev, drawn = attacked(name, how)
    for who in ev.subjects:
        ev.judged(who, ev.drawn.axis)
    drawn.clear()
    before = _contents(ev)
    scores = brief(cls).score_of(ev)
    after = _contents(ev)
    changed = tuple(what for what, held in before.items() if not _equal(held, after[what]))
    return Outcome(tuple(scores), tuple(drawn), changed)


def brief(cls: Cls) -> Attack:
    """The attack with every whole number of its budget at most `FEW`, or as low as may be."""
    low = {
        k.name: max(k.bounds.get("ge", 1), k.bounds.get("gt", 0) + 1) for k in cls.knobs() if k.type is int
    }
    defaults = cls()
    return cls(**{n: min(getattr(defaults, n), max(FEW, int(least))) for n, least in low.items()})


def attacked(name: str, how: str = "") -> tuple[Evidence, list[Tensor]]:
    """Evidence of a tiny trial, and a list that fills with what the judge of the concept is shown; see `outcome`."""
    ev = evidence(name)
    gallery = ev.drawn
    known: dict[str, Any] = dict(ev.handles)
    if how == "single":
        first = ~gallery.asks | (gallery.asks.cumsum(0) == 1)
        captions = tuple(c for c, there in zip(gallery.captions, first.tolist(), strict=True) if there)
        gallery = replace(gallery, captions=captions, asked={a: t[first] for a, t in gallery.asked.items()})
        known["prompts"] = known["prompts"].take(known["prompts"].rows[first])
    reworded = torch.tensor(REWORDED).repeat_interleave(int(gallery.asks.sum()), 0)
    drawn: list[Tensor] = []
    judge = _watched(gallery.judges[gallery.axis], drawn, gallery.target if how == "shown" else None)
    subjects = {w: s for w, s in ev.subjects.items() if w != "oracle" or how != "alone"}
    known["paraphrases"] = Resident(Arrays(torch.zeros(len(reworded), 0), reworded))
    gallery = replace(gallery, judges={**gallery.judges, gallery.axis: judge})
    return replace(ev, subjects=subjects, handles=known, gallery=gallery, _memo={}), drawn


def check_scores(cls: Cls, tiny: Tiny) -> None:
    """Two shares of the prompts that ask for the concept, without the attack and with it; smaller is better."""
    scores = outcome(cls, tiny.name).scores
    wanted = [f"attack/{cls.name}/{when}" for when in ("pre", "post")]
    demand(
        [s.name for s in scores] == wanted, f"{cls.__name__} scores {[s.name for s in scores]}, not {wanted}"
    )
    for s in scores:
        demand(
            s.aim is Aim.DOWN and s.metric == cls.name,
            f"score {s.name!r} must name {cls.name!r}, with Aim.DOWN",
        )
    pre, post = scores
    for what in ("value", "reference"):
        before, after = getattr(pre, what), getattr(post, what)
        demand(
            0 <= before <= after <= 1,
            f"{what} of {cls.__name__} is {before} without the attack and {after} with it; a success stays one",
        )


def check_tries(cls: Cls, tiny: Tiny) -> None:
    """It draws something, and what is drawn is finite."""
    drawn = outcome(cls, tiny.name).drawn
    demand(bool(drawn), f"{cls.__name__} draws nothing; yield what was tried, also with the smallest budget")
    demand(all(bool(x.isfinite().all()) for x in drawn), f"{cls.__name__} draws images that are not finite")


def check_deterministic(cls: Cls, tiny: Tiny) -> None:
    """The same seed gives the same drawings, bit for bit."""
    one, two = outcome(cls, tiny.name), outcome(cls, tiny.name, "again")
    demand(
        _equal(dict(enumerate(one.drawn)), dict(enumerate(two.drawn))) and one.scores == two.scores,
        f"{cls.__name__} does something else with the same seed; draw from case.run.rng alone",
    )


def check_kept(cls: Cls, tiny: Tiny) -> None:
    """Models, clean or attacked, and data stay as they were: only the clone of the victim may change."""
    changed = outcome(cls, tiny.name).changed
    demand(not changed, f"{cls.__name__} changes {', '.join(changed)}; change nothing but case.victim")


def check_stops(cls: Cls, tiny: Tiny) -> None:
    """A prompt that has shown the concept is not drawn again."""
    drawn = outcome(cls, tiny.name, "shown").drawn
    demand(
        not any(len(x) for x in drawn),
        f"{cls.__name__} draws prompts that have shown the concept; yield case.open, or rows of it",
    )


def check_single(cls: Cls, tiny: Tiny) -> None:
    """It works where one prompt asks for the concept."""
    scores = outcome(cls, tiny.name, "single").scores
    demand(
        all(s.n == 1 for s in scores), f"{cls.__name__} counts {[s.n for s in scores]} prompts where one asks"
    )


def check_no_oracle(cls: Cls, tiny: Tiny) -> None:
    """Without an oracle there is no reference."""
    for s in outcome(cls, tiny.name, "alone").scores:
        demand(s.reference is None, f"score {s.name!r} has a reference although there is no oracle")


CHECKS: dict[str, Callable[[Cls, Tiny], None]] = {
    "scores": check_scores,
    "tries": check_tries,
    "deterministic": check_deterministic,
    "kept": check_kept,
    "stops": check_stops,
    "single": check_single,
    "no-oracle": check_no_oracle,
}
"""What an attack must keep to on each tiny subject, by name."""


def _watched(judge: Judge, drawn: list[Tensor], always: int | None) -> Judge:
    """A judge that remembers what it was shown and, if asked to, always sees one concept."""

    def look(images: Tensor) -> Tensor:
        drawn.append(images.detach().clone())
        logits = judge(images)
        if always is not None:
            logits = logits.clone()
            logits[:, always] = logits.amax() + 1 if len(logits) else 0.0
        return logits

    return look


def _contents(ev: Evidence) -> dict[str, Any]:
    """Copies of all models and data of some evidence, by what they are called in a sentence."""
    models: dict[str, Any] = {f"the {who} model": tensors(s) for who, s in ev.subjects.items()}
    flags = {f"flags or hooks of the {who} model": shell(s.module) for who, s in ev.subjects.items()}
    handles: dict[str, Any] = dict(ev.handles)
    sets = {f"the set {n}": {"x": h.source.x.clone(), "y": h.source.y.clone()} for n, h in handles.items()}
    return {**models, **flags, **sets}


def _equal(a: Any, b: Any) -> bool:
    if all(isinstance(v, Tensor) for v in (*a.values(), *b.values())):
        return same(a, b)
    return bool(a == b)
