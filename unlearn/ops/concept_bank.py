"""Concepts as directions in feature space, what a classifier makes of them, and which pixels it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unlearn.errors import BadData, BadValue
from unlearn.patch import load_tensors

COLUMNS = 16
"""Columns of a row of numbers that become concepts, at most."""
GRID = 3
QUARTER = 0.25
FORM = "a safetensors file with two tensors of inputs for each concept, NAME/positive and NAME/negative"


@dataclass(frozen=True, slots=True)
class Bank:
    """Concept directions.

    Attributes:
        names: Of the K concepts.
        directions: Unit normals v_k, with shape (K, D).
    """

    names: tuple[str, ...]
    directions: Tensor

    def activations(self, features: Tensor) -> Tensor:
        """Activations a = V g(x) of features (N, D), with shape (N, K)."""
        return features @ self.directions.to(features).T


def read_examples(path: str, shape: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Positive and negative inputs of each concept from a file, each (n, *).

    Args:
        path: The file.
        shape: Of one input that the model takes.

    Raises:
        BadData: If it holds no concept, one without its other half, or inputs that are no floats of this shape.
    """
    found = load_tensors(Path(path).expanduser())
    names = list(dict.fromkeys(n.rpartition("/")[0] for n in found))
    for name in names:
        halves = [found.get(f"{name}/{half}") for half in ("positive", "negative")]
        if not name or any(h is None or not h.numel() for h in halves):
            raise BadData(
                f"{path}: the concept {name or '(without a name)'!r} lacks positive or negative examples; give {FORM}"
            )
        for h in ("positive", "negative"):
            one = found[f"{name}/{h}"]
            if one.shape[1:] != torch.Size(shape) or not one.is_floating_point():
                raise BadData(
                    f"{path}: {name}/{h} holds examples of shape {tuple(one.shape[1:])}, {one.dtype}; this model takes floats of shape {tuple(shape)}; give {FORM}"
                )
    if not names:
        raise BadData(f"{path} holds no concept; give {FORM}")
    return {n: (found[f"{n}/positive"], found[f"{n}/negative"]) for n in names}


def visible(x: Tensor) -> dict[str, Tensor]:
    """Simple attributes of inputs, each a number that can be large or small.

    Of images (N, C, H, W): the brightness of each cell of a 3 x 3 grid, and how much brightness changes across, down and
    along both diagonals. Of rows (N, *): each of the first 16 numbers.

    Returns:
        Values by name, each with shape (N,).
    """
    if x.ndim != 4 or min(x.shape[2:]) < GRID:
        rows = x.flatten(1)[:, :COLUMNS].double()
        return {f"column {k}": rows[:, k] for k in range(rows.shape[1])}
    grey = x.double().mean(1, keepdim=True)
    cells = adaptive_avg_pool2d(grey, GRID).flatten(1)
    words = [f"{v} {h}" for v in ("top", "middle", "bottom") for h in ("left", "centre", "right")]
    found = {f"bright {w}": cells[:, k] for k, w in enumerate(words)}
    steps = {"across": (0, 1), "down": (1, 0), "falling": (1, 1), "rising": (1, -1)}
    for word, (down, right) in steps.items():
        moved = grey.roll((down, right), (2, 3)) - grey
        inner = moved[:, :, 1:-1, 1:-1]
        found[f"edges {word}"] = inner.abs().flatten(1).mean(1)
    return found


def quarters(values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows in the highest and the lowest quarter of each attribute; one that does not vary is left out."""
    found = {}
    for name, v in values.items():
        order, k = v.argsort(stable=True), max(1, math.floor(QUARTER * len(v)))
        if v[order[-k:]].min() > v[order[:k]].max():
            found[name] = order[-k:], order[:k]
    return found


def bank_of(examples: Mapping[str, tuple[Tensor, Tensor]]) -> Bank:
    """The unit normal of a linear support vector machine between the features of each concept's examples.

    Args:
        examples: Features with and without the concept, each (n, D), by name.

    Raises:
        BadValue: If there is no concept.
    """
    from sklearn.svm import LinearSVC

    if not examples:
        raise BadValue(
            f"the concept bank is empty: no attribute of these inputs varies; give examples of concepts with --concepts, {FORM}"
        )
    normals = []
    for positive, negative in examples.values():
        x = torch.cat([positive, negative]).double().cpu().numpy()
        y = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        centred = x - x.mean(0)  # the solver shrinks the intercept too
        w = LinearSVC(dual="auto", random_state=0, max_iter=20_000).fit(centred, y).coef_[0]
        normals.append(w / max(float(np.linalg.norm(w)), 1e-12))
    return Bank(tuple(examples), torch.from_numpy(np.stack(normals)).float())


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A sparse linear head on standardised concept activations that answers as the model does.

    Attributes:
        weights: W, with shape (C, K).
        mean: Of each activation over the examples that it was fitted to, with shape (K,).
        std: Their standard deviations.
    """

    weights: Tensor
    mean: Tensor
    std: Tensor

    def contributions(self, activations: Tensor, c: int) -> Tensor:
        """W_ck E[a_k] over some examples' activations (N, K), with shape (K,)."""
        return self.weights[c] * ((activations.cpu() - self.mean) / self.std).mean(0)


def bottleneck(activations: Tensor, answers: Tensor, classes: int, penalty: float) -> Bottleneck:
    """Fits the head by elastic net to the model's own answers.

    Args:
        activations: a, with shape (N, K).
        answers: Class that the model gives each, with shape (N,).
        classes: Number of classes C; one that is never answered has no weights.
        penalty: Strength of the elastic net.
    """
    from sklearn.linear_model import SGDClassifier

    a, y = activations.cpu(), answers.cpu().numpy()
    mean, std = a.mean(0), a.std(0).clamp_min(1e-8)
    weights = torch.zeros(classes, a.shape[1])
    seen = np.unique(y)
    if len(seen) > 1:
        head = SGDClassifier(
            loss="log_loss", penalty="elasticnet", alpha=penalty, l1_ratio=0.5, random_state=0
        )
        head.fit(((a - mean) / std).numpy(), y)
        rows = torch.from_numpy(head.coef_).float()
        weights[torch.from_numpy(seen)] = rows if len(seen) > 2 else torch.cat([-rows, rows])
    return Bottleneck(weights, mean, std)


def driving(head: Bottleneck, activations: Tensor, c: int, n: int) -> list[int]:
    """The n concepts that contribute most to class c over its examples, strongest first."""
    return head.contributions(activations, c).topk(min(n, head.weights.shape[1])).indices.tolist()


def confused_with(
    head: Bottleneck, activations: Tensor, concepts: Sequence[int], allowed: Sequence[int]
) -> int:
    """The class among those allowed to which these concepts, as they are in some examples, contribute most."""
    a = ((activations.cpu() - head.mean) / head.std).mean(0)[list(concepts)]
    shared = head.weights[list(allowed)][:, list(concepts)] @ a
    return allowed[int(shared.argmax())]


def integrated_gradients(
    of: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, steps: int = 32
) -> Tensor:
    """(x − x′) ∫₀¹ ∂f(x′ + s (x − x′)) ds by the midpoint rule, so that Σ_j IG_j ≈ f(x) − f(x′).

    Args:
        of: f, from inputs (B, *) to one value each, (B,); each row's value depends on its own row only.
        x: Inputs, with shape (B, *).
        baseline: x′, of the same shape or one that is broadcast to it.
        steps: Points of the rule.

    References:
        Sundararajan et al., 2017, Axiomatic attribution for deep networks, arXiv:1703.01365
    """
    difference, total = x - baseline, torch.zeros_like(x)
    for k in range(steps):
        point = (baseline + (k + 0.5) / steps * difference).detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(of(point).sum(), point)
        total += grad
    return difference * total / steps
