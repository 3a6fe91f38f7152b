"""How data are divided, so that nothing is scored on what fitted or tuned it, and what they hash to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearn.errors import BadData
from unlearn.ops.pictures import Frame, Pictures, decode
from unlearn.patch import weights_hash
from unlearn.provenance import digest, file_digest
from unlearn.request import Labels
from unlearn.scenario import Part, stratified
from unlearn.sources import Arrays, Source


def part(source: Source, labels: Labels) -> Part:
    """All rows of a source."""
    return Part(source, torch.arange(len(source)), labels)


def pick(whole: Part, at: Tensor) -> Part:
    """Some rows of a part.

    Args:
        whole: The part.
        at: Positions in it, with shape (n,).
    """
    labels = whole.labels
    groups = None if labels.groups is None else tuple(labels.groups[i] for i in at.tolist())
    rows = whole.rows[at]
    taken = {k: v[at] for k in ("y", "fine", "spoilt") if (v := getattr(labels, k)) is not None}
    return Part(whole.source, rows, replace(labels, **taken, groups=groups, ids=rows))


def limited(whole: Part, n: int) -> Part:
    """About `n` rows with the same share of every class; all for 0 or where there are no more."""
    if not 0 < n < len(whole.rows):
        return whole
    return pick(whole, _strata(whole, (n / len(whole.rows), 1.0), 2)[0])


def divide(train: Part, test: Part, pretrained: bool) -> tuple[Part, Part, Part, Part]:
    """Training, validation, attack-fitting and scoring data.

    The two halves for attacks and scores come from the test data. Validation data are a tenth of the training
    data where we train the original, and a fifth of the test data where somebody trained it on all of them.

    Args:
        train: What the original is, or was, trained on.
        test: What it never sees.
        pretrained: Whether somebody else trained it.

    Raises:
        BadData: If a part would be empty.
    """
    if pretrained:
        validation, fit, score = (pick(test, r) for r in _strata(test, (0.2, 0.4, 0.4), 0))
    else:
        kept, held = _strata(train, (0.9, 0.1), 1)
        validation, train = pick(train, held), pick(train, kept)
        fit, score = (pick(test, r) for r in _strata(test, (0.5, 0.5), 0))
    for name, found in (("validation", validation), ("attack-fitting", fit), ("scoring", score)):
        if not len(found.rows):
            raise BadData(
                f"{len(test.rows)} held-out examples are too few to divide: nothing is left as {name} data; give at least 5 of each class"
            )
    return train, validation, fit, score


def _strata(whole: Part, shares: tuple[float, ...], seed: int) -> list[Tensor]:
    y = whole.labels.y
    classes = y if y.ndim == 1 and not y.is_floating_point() else torch.zeros(len(y), dtype=torch.long)
    return stratified(classes, shares, torch.Generator().manual_seed(seed))


def content_of(found: Part) -> str:
    """Hash of a part's inputs as they are stored, and of its targets."""
    total = hashlib.sha256(weights_hash({"y": found.labels.y}).encode())
    if found.labels.groups is not None:
        total.update(digest(list(found.labels.groups)).encode())
    source = found.source
    if isinstance(source, Arrays):
        total.update(weights_hash({"x": source.x}).encode())
        return total.hexdigest()
    for rows in torch.arange(len(source)).split(512):
        if isinstance(source, Pictures):
            for item in source.read(rows.tolist()):
                total.update(_bytes(item))
        else:
            total.update(weights_hash({"x": source.fetch(rows)}).encode())
    return total.hexdigest()


def _bytes(item: Any) -> bytes:
    if isinstance(item, dict):
        item = item["bytes"] if item.get("bytes") is not None else item["path"]
    if isinstance(item, bytes):
        return item
    if isinstance(item, str | Path):
        return bytes.fromhex(file_digest(Path(item)))
    return decode(item, Frame()).numpy().tobytes()
