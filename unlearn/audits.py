"""Which held-out examples attacks and class-wise scores compare with what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from unlearn.errors import BadValue
from unlearn.metric import View
from unlearn.request import Labels, Request
from unlearn.scenario import Material, Part


def audit_views(
    request: Request,
    material: Material,
    removed: tuple[int, ...],
    now: tuple[int, ...],
    before: Sequence[Request] = (),
) -> dict[str, View]:
    """Views on the held-out sets that attacks and class-wise scores read.

    `audit` (for scores) and `audit_fit` (to fit attacks) hold the examples that are distributed as the forget
    set: spoilt as it is, of the classes or the range that this request removes, of the sub-class or group where the
    data name it, else of all classes that are left. Where classes or ranges are removed, `test_forget` and `test_retain`
    hold the scored examples of these and of the others; where earlier requests removed some, `test_earlier` holds those
    of them, and `test_now` those that this one removes.

    Args:
        request: The one that is served.
        material: The data.
        removed: Ids of the removed classes, by this request and earlier ones.
        now: Ids of those that this request removes.
        before: Requests that were served earlier.
    """
    views, way = {}, material.train.labels.way
    for base, name in (("test", "audit"), ("fit", "audit_fit")):
        part: Part = getattr(material, base)
        if way:
            base = f"{way if request.kind == way else 'mixed'}_{base}"
            part = material.extra[base]
        everything = torch.arange(len(part.rows))
        rows = (
            everything
            if request.kind == way
            else _alike(request, part.labels, now, _gone(before, part.labels, removed))
        )
        views[name] = View(base, rows)
    gone = _gone([*before, request], material.test.labels, removed)
    if removed or (gone.any() and not gone.all()):
        views["test_forget"] = View("test", gone.nonzero().flatten())
        views["test_retain"] = View("test", (~gone).nonzero().flatten())
        mine = torch.isin(material.test.labels.y, torch.tensor(now))
        if removed and (gone & ~mine).any():
            views["test_earlier"] = View("test", (gone & ~mine).nonzero().flatten())
            views |= {"test_now": View("test", mine.nonzero().flatten())} if now else {}
    return views


def _gone(asked: Sequence[Request], labels: Labels, removed: tuple[int, ...]) -> Tensor:
    """Which held-out examples are of what was removed so far: of classes, or of ranges of targets; a mask (N,)."""
    if removed:
        return torch.isin(labels.y, torch.tensor(removed))
    gone = torch.zeros(len(labels.y), dtype=torch.bool)
    for request in (r for r in asked if r.parts):
        with suppress(BadValue):  # none is held out
            gone[request.rows(labels, torch.Generator())] = True
    return gone


def _alike(request: Request, labels: Labels, now: tuple[int, ...], gone: Tensor) -> Tensor:
    """Positions of the held-out examples that are distributed as what a request forgets, without what is gone."""
    if now:
        return torch.isin(labels.y, torch.tensor(now)).nonzero().flatten()
    if request.parts:
        return (_gone([request], labels, ()) & ~gone).nonzero().flatten()
    everything = torch.arange(len(labels.y))
    if gone.any():
        return everything[~gone]
    if request.kind in ("subclass", "group", "concept"):
        try:
            return request.rows(labels, torch.Generator())
        except (BadValue, LookupError):
            return everything
    return everything
