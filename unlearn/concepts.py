"""Several concepts in one scenario: what each step is asked, once others are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unlearn.gallery import Gallery
from unlearn.request import ForgetConcept, ForgetSequence, Request
from unlearn.scenario import Scenario, steps
from unlearn.sources import Arrays, Source

LENT = ("concept", "anchor", "preserve")

Asked = tuple[Mapping[str, Source], Gallery | None]
"""Sets of prompts, and what judges the drawings of `prompts`."""


def at_once(request: Request) -> bool:
    """Whether one unlearning serves all that is asked for."""
    return isinstance(request, ForgetSequence) and request.together


def asked(scenario: Scenario, step: int) -> Asked:
    """The prompts of one of a scenario's requests and what judges them.

    Drawings of concepts that earlier steps erased, or that are erased at once with this one, are left out: they are
    neither the concept nor a neighbour that must stay.

    Args:
        scenario: With one request or several.
        step: Which of them.
    """
    every, together = steps(scenario.request), at_once(scenario.request)
    sets, gallery = dict(scenario.prompts(every[step])), scenario.gallery(every[step])
    if together:
        sets |= merged([scenario.prompts(request) for request in every])
    others = [r for k, r in enumerate(every) if (k != step if together else k < step)]
    kept = None if gallery is None else gallery.without(_names(others))
    if gallery is None or kept is None or kept.all():
        return sets, gallery
    wordings = kept[gallery.asks].repeat(_length(sets["paraphrases"]) // int(gallery.asks.sum()))
    sets |= {"prompts": _some(sets["prompts"], kept), "paraphrases": _some(sets["paraphrases"], wordings)}
    return sets, gallery.take(kept)


def merged(sets: Sequence[Mapping[str, Source]]) -> dict[str, Source]:
    """What several concepts lend to one unlearning.

    Args:
        sets: `concept`, `anchor` and `preserve` of each concept, as in `Scenario.prompts`.

    Returns:
        The three, one after the other; what must stay is there once, without what is erased. Of several concepts, x
        of `concept` holds the number of each prompt's, with shape (P, 1), see `unlearn.ops.names.concepts_of`.
    """
    if len(sets) == 1:
        return {name: sets[0][name] for name in LENT}
    found = {name: torch.cat([s[name].y for s in sets]) for name in LENT}
    gone = {tuple(row) for row in found["concept"].flatten(1).tolist()}
    kept = found["preserve"].unique(dim=0)
    found["preserve"] = kept[[tuple(row) not in gone for row in kept.flatten(1).tolist()]]
    numbers = [torch.full((_length(s["concept"]), 1), float(k)) for k, s in enumerate(sets)]
    nothing = {name: torch.zeros(len(y), 0) for name, y in found.items()}
    return {name: Arrays(x, found[name]) for name, x in {**nothing, "concept": torch.cat(numbers)}.items()}


def _names(asked: Sequence[Request]) -> set[str]:
    return {request.concept for request in asked if isinstance(request, ForgetConcept)}


def _length(source: Source) -> int:
    return len(source.y)


def _some(source: Source, kept: Tensor) -> Source:
    return Arrays(torch.zeros(int(kept.sum()), 0), source.y[kept])
