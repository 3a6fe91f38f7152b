"""The data of a report's pictures, computed from evidence that metrics have already made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn import drawings, fillings
from unlearn.filling import Completes
from unlearn.metric import Evidence, Metric, Signal
from unlearn.ops.values import predictions
from unlearn.subject import Classifies, Embeds, HasLoss, Predicts, Regresses

BINS = 32
POINTS = 400
SMALLEST = 1e-6
"""Losses below this share the first bin of a logarithmic axis."""
THUMBS = 24

Data = dict[str, Any]


def collect(ev: Evidence, show_forgotten: bool = False, metrics: Sequence[Metric] = ()) -> Data:
    """Everything that is drawn, as plain JSON of some tens of kilobytes.

    A picture that the subjects cannot give (no loss, no classes, no features) is left out.

    Args:
        ev: What metrics may look at; only what it can answer without new models is read.
        show_forgotten: Whether to include thumbnails of forgotten images; by default nothing that was
            forgotten can be seen in a report.
        metrics: Whose attacks are drawn.

    Returns:
        Any of the keys `loss`, `values`, `entropy`, `roc`, `attacks`, `classes`, `features`, `drawings`, `concepts`,
        `completions`, `forgotten`.
    """
    subject = ev.subjects["unlearned"]
    made: Data = {}
    if isinstance(subject, HasLoss) and _sets(ev):
        made["loss"] = _histograms(ev, ev.losses, loss_edges)
        made["roc"] = _roc(ev, lambda who, where: -ev.losses(who, where))
    if isinstance(subject, Regresses):
        made["values"] = _histograms(ev, lambda who, where: predictions(ev, who, where), value_edges)
        for name, unit in (("loss", ""), ("values", subject.unit)):
            if made.get(name):
                made[name]["unit"] = unit
    made["attacks"] = {
        name: curves
        for m in metrics
        for name, signal in m.attacks(ev).items()
        if (curves := _roc(ev, signal))
    }
    if isinstance(subject, Classifies):
        made["entropy"] = _histograms(ev, lambda who, where: entropy(ev.outputs(who, where)), entropy_edges)
        made["classes"] = _classes(ev)
    if isinstance(subject, Embeds) and isinstance(subject, Predicts):
        made["features"] = _features(ev)
    if ev.gallery is not None:
        made["drawings"] = drawings.grid(ev, ev.gallery, _models(ev))
        made["concepts"] = drawings.shares(ev, ev.gallery, _models(ev))
    if isinstance(subject, Completes) and _sets(ev):
        made["completions"] = fillings.grids(ev, _models(ev), show_forgotten)
    if show_forgotten:
        made["forgotten"] = _thumbs(ev)
    return {name: data for name, data in made.items() if data}


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the predicted distribution in nats, with shape (N,), for logits of shape (N, C).

    Example:
        >>> entropy(torch.zeros(1, 4)).exp().round().tolist()
        [4.0]
    """
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).nan_to_num(0.0).sum(1) + 0 * logits.sum(1)


def loss_edges(values: Tensor) -> tuple[list[float], bool]:
    """Bin edges for losses of shape (N,), and whether they are spaced logarithmically.

    Losses of one sign, such as cross-entropies, span many powers of ten and get logarithmic bins.
    """
    low, high = float(values.min()), float(values.max())
    if low < 0 or high <= SMALLEST:
        return _linear(low, high), False
    start = max(SMALLEST, low)
    ends = math.floor(math.log10(start)), math.ceil(math.log10(high))
    return np.logspace(ends[0], max(ends[1], ends[0] + 1), BINS + 1).tolist(), True


def entropy_edges(values: Tensor) -> tuple[list[float], bool]:
    """Even bins from 0 to the largest entropy seen, for values of shape (N,)."""
    return _linear(0.0, float(values.max())), False


def value_edges(values: Tensor) -> tuple[list[float], bool]:
    """Even bins over predicted values of shape (N,)."""
    return _linear(float(values.min()), float(values.max())), False


def roc(members: Tensor, others: Tensor, grid: Tensor) -> Tensor:
    """True-positive rate of an attack that calls low values members, at false-positive rates.

    The threshold is the highest at which at most the given share of non-members is accused; ties count
    against the attack.

    Args:
        members: Values of forgotten examples, such as losses, with shape (M,).
        others: Values of comparable examples that were never trained on, with shape (N,).
        grid: False-positive rates in (0, 1], with shape (G,).

    Returns:
        Shares of members accused, with shape (G,).

    Example:
        >>> roc(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0]), torch.tensor([0.4, 0.5, 1.0])).tolist()
        [0.5, 0.5, 1.0]
    """
    allowed = (grid.double() * len(others) + 1e-9).floor().long()
    limits = torch.cat([others.double().sort().values, torch.tensor([math.inf], dtype=torch.float64)])
    thresholds = limits[allowed.clamp_max(len(others))].contiguous()
    accused = torch.searchsorted(members.double().sort().values, thresholds, side="left")
    return accused / len(members)


def auc(members: Tensor, others: Tensor) -> float:
    """Chance that a member, shape (M,), has a lower value than a non-member, shape (N,); ties count half.

    Example:
        >>> auc(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
        0.875
    """
    a, b = members.double().contiguous(), others.double().sort().values
    below, upto = torch.searchsorted(b, a, side="left"), torch.searchsorted(b, a, side="right")
    return float((len(b) - 0.5 * (below + upto).double()).mean() / len(b))


def principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), first two principal axes (D, 2) and their shares of the variance (2,) of rows x (N, D).

    The sign of an axis is chosen so that its largest entry is positive.
    """
    mean = x.mean(0)
    _, s, vh = torch.linalg.svd(x - mean, full_matrices=False)
    axes = torch.zeros(x.shape[1], 2, dtype=x.dtype)
    k = min(2, len(vh))
    axes[:, :k] = vh[:k].T
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    share = torch.zeros(2, dtype=x.dtype)
    share[:k] = s[:k].square() / s.square().sum().clamp_min(1e-30)
    return mean, axes * torch.where(signs == 0, 1, signs), share


def _models(ev: Evidence) -> list[str]:
    return [who for who in ("original", "unlearned", "oracle") if who in ev.subjects]


def _sets(ev: Evidence) -> list[str]:
    """The forget set, what it is compared with, and the test set where that is something else."""
    there = [s for s in ("forget", "audit", "test") if s in ev.handles or s in ev.views]
    if {"audit", "test"} <= set(there) and len(ev.y("audit")) == len(ev.y("test")):
        there.remove("test")
    return there


def _histograms(
    ev: Evidence,
    of: Callable[[str, str], Tensor],
    edges_of: Callable[[Tensor], tuple[list[float], bool]],
) -> Data:
    """Share of each set in each bin, by model and set; the bins are the same for all."""
    values = {who: {where: of(who, where).flatten() for where in _sets(ev)} for who in _models(ev)}
    finite = torch.cat([v[v.isfinite()] for sets in values.values() for v in sets.values()])
    if not len(finite):
        return {}
    edges, log = edges_of(finite)
    share = {
        who: {where: _share(v, edges) for where, v in sets.items() if len(v)} for who, sets in values.items()
    }
    broken = {who: sum(int((~v.isfinite()).sum()) for v in sets.values()) for who, sets in values.items()}
    return {"edges": _short(edges), "log": log, "share": share, "not_finite": broken}


def _share(values: Tensor, edges: list[float]) -> list[float]:
    kept = values[values.isfinite()].double().clamp(edges[0], edges[-1]).numpy()
    return _short((np.histogram(kept, edges)[0] / len(values)).tolist())


def _roc(ev: Evidence, signal: Signal) -> Data:
    """Curves of an attack on the forget set, one for each model; nothing where it has no finite signal."""
    if "audit" not in ev.views and "test" not in ev.handles:
        return {}
    outside = "audit" if "audit" in ev.views else "test"
    n, m = len(ev.y(outside)), len(ev.y("forget"))
    if not n or not m:
        return {}
    grid = torch.logspace(-math.log10(n), 0, min(100, 4 * n), dtype=torch.float64)
    made: Data = {"fpr": _short(grid.tolist()), "members": m, "others": n, "tpr": {}, "auc": {}}
    for who in _models(ev):
        members, others = (-torch.as_tensor(signal(who, where)) for where in ("forget", outside))
        if members.isfinite().all() and others.isfinite().all():
            made["tpr"][who] = _short(roc(members, others, grid).tolist())
            made["auc"][who] = round(auc(members, others), 5)
    return made if made["tpr"] else {}


def _classes(ev: Evidence) -> Data:
    """Accuracy of each class on the test set; None where it has no test example.

    Where held-out examples of what is forgotten are told apart, `neighbours` says what share of them the oracle, or the
    original where there is none, assigns to each class that is not their own.
    """
    y = ev.y("test")
    subject = ev.subjects["unlearned"]
    if not isinstance(subject, Classifies) or y.is_floating_point() or y.ndim != 1:
        return {}
    count = torch.bincount(y, minlength=subject.classes)
    made: Data = {
        "names": list(ev.classes) or [str(c) for c in range(subject.classes)],
        "removed": list(ev.removed),
        "n": count.tolist(),
        "accuracy": {},
    }
    for who in _models(ev):
        hits = torch.bincount(y, weights=ev.correct(who, "test").double(), minlength=subject.classes)
        rates = zip(hits.tolist(), count.tolist(), strict=True)
        made["accuracy"][who] = [round(h / n, 5) if n else None for h, n in rates]
    if "test_forget" in ev.views and len(gone := ev.y("test_forget")):
        made["by"] = "oracle" if ev.has_oracle else "original"
        said = ev.outputs(made["by"], "test_forget").argmax(1)
        taken = torch.bincount(said[said != gone], minlength=subject.classes).double() / len(gone)
        made["neighbours"] = [round(v, 5) for v in taken.tolist()]
    return made


def _features(ev: Evidence) -> Data:
    """Some forgotten and retained examples on the two main axes of the original's features.

    The oracle is a model of its own, with axes of its own.
    """
    rows = {"forget": _spread(len(ev.y("forget")), 3 * POINTS // 8)}
    rows["retain"] = _spread(len(ev.y("retain")), POINTS - len(rows["forget"]))
    y = torch.cat([ev.y(where)[r] for where, r in rows.items()])
    points = {who: torch.cat([ev.features(who, w)[r].flatten(1) for w, r in rows.items()]).double()
              for who in _models(ev)}  # fmt: skip
    points = {who: x for who, x in points.items() if x.isfinite().all()}
    if "original" not in points or len(y) < 3:
        return {}
    mean, axes, share = principal(points["original"])
    made: Data = {
        "forgotten": len(rows["forget"]),
        "explained": _short(share.tolist()),
        "points": {},
    }
    if not y.is_floating_point() and y.ndim == 1:
        made["y"], made["names"] = y.tolist(), list(ev.classes)
    for who, x in points.items():
        if who == "oracle":
            mean, axes, share = principal(x)
            made["explained_oracle"] = _short(share.tolist())
        made["points"][who] = [_short(p) for p in ((x - mean) @ axes).tolist()]
    return made


def _spread(n: int, most: int) -> Tensor:
    """At most `most` of n positions, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()


def _thumbs(ev: Evidence) -> list[Data]:
    """The first forgotten inputs as PNG images, where they look like images."""
    batch = next(ev.handles["forget"].batches(THUMBS))
    if batch.x.ndim != 4 or batch.x.shape[1] not in (1, 3) or max(batch.x.shape[2:]) > 512:
        return []
    named = batch.y.ndim == 1 and not batch.y.is_floating_point()
    labels = [_name(ev, int(c)) for c in batch.y] if named else [""] * len(batch)
    return [{"png": png, "label": label} for png, label in zip(_pngs(batch.x), labels, strict=True)]


def _name(ev: Evidence, label: int) -> str:
    return ev.classes[label] if 0 <= label < len(ev.classes) else str(label)


def _pngs(x: Tensor) -> Iterator[str]:
    """Base64 PNG of each image of x (B, C, H, W), each stretched to the full range."""
    for image in x[:THUMBS].float().cpu():
        low, high = image.min(), image.max()
        yield drawings.png((image - low) / (high - low).clamp_min(1e-12))


def _linear(low: float, high: float) -> list[float]:
    wide = high if high > low else low + 1.0
    return [float(v) for v in np.linspace(low, wide, BINS + 1)]


def _short(values: list[float]) -> list[float]:
    """Four significant digits, which no picture can show more of."""
    return [float(f"{v:.4g}") for v in values]
