"""Single-layer unlearning: which layer one forget gradient should move, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from unlearn.errors import Mismatch
from unlearn.modes import mode
from unlearn.runtime import Run

LEFT_OUT = ("bias", "logit_scale", "position", "embedding")
"""Words in the names of parameters that are not moved."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight that may be moved, with the two gradients that say whether it should.

    Attributes:
        name: Of the parameter.
        weight: θ_l.
        forget: Gradient g_f of the loss that should rise, of the shape of θ_l.
        retain: Gradient g_r of the loss that should not.
    """

    name: str
    weight: nn.Parameter
    forget: Tensor
    retain: Tensor

    @property
    def importance(self) -> float:
        """How much the layer matters to what is forgotten, ‖g_f‖ / ‖θ_l‖."""
        return float(self.forget.norm() / self.weight.detach().norm())

    @property
    def alignment(self) -> float:
        """How much of what is kept would move along, |cos(g_f, g_r)|."""
        return abs(float(cosine_similarity(self.forget.flatten(), self.retain.flatten(), 0)))


@dataclass(frozen=True, slots=True)
class Tried:
    """A step that was tried on a layer.

    Attributes:
        layer: The layer.
        size: Step size λ.
        left: What is left of what should be forgotten.
        harm: What it does to the rest.
    """

    layer: Layer
    size: float
    left: float
    harm: float


def weights(part: nn.Module, *also: str) -> dict[str, nn.Parameter]:
    """The candidates: all but biases, a scale of logits, and embeddings of tokens, classes and positions, by their names.

    The kernel over the patches of an image counts, though transformers calls it an embedding: in open_clip, where the
    authors' rule was seen, its name is `conv1`.

    Args:
        part: The model, or a part of it.
        also: Further words whose bearers are left out.
    """

    def stays(name: str) -> bool:
        words = {*LEFT_OUT, *also} - ({"embedding"} if "patch_embedding" in name else set())
        return any(w in name for w in words)

    return {n: p for n, p in part.named_parameters() if not stays(n)}


@contextmanager
def unmoved(module: nn.Module, *, train: bool) -> Iterator[None]:
    """Train or evaluation mode in which buffers, such as the statistics of batch norm, come back bit for bit."""
    kept = [(b, b.clone()) for b in module.buffers()]
    try:
        with mode(module, train=train):
            yield
    finally:
        for b, before in kept:
            b.copy_(before)


def movable(layers: Iterable[Layer]) -> list[Layer]:
    """The layers that a gradient reaches and that are not zero, so that steps can be in units of ‖θ_l‖ / ‖g_f‖."""
    return [m for m in layers if 0 < m.importance < math.inf]


def mean_gradients(losses: Iterable[Tensor], of: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the mean of some losses, for parameters that want them; zero where no loss reaches one.

    Args:
        losses: Scalars of batches of equal size; each is differentiated before the next is computed.
        of: The parameters.
    """
    total, n = [torch.zeros_like(p) for p in of], 0
    for loss in losses:
        n += 1
        for into, g in zip(total, torch.autograd.grad(loss, of, allow_unused=True), strict=True):
            into += 0 if g is None else g
    return [t / n for t in total]


def pareto(layers: Sequence[Layer]) -> list[Layer]:
    """The layers than which no other is both more important and less aligned, in order.

    Example:
        >>> def layer(name, f, r): return Layer(name, nn.Parameter(torch.ones(2)), torch.tensor(f), torch.tensor(r))
        >>> both = [layer("a", [1.0, 0.0], [1.0, 1.0]), layer("b", [3.0, 0.0], [0.0, 1.0])]
        >>> [m.name for m in pareto(both)]
        ['b']
    """
    known = [(m, m.importance, m.alignment) for m in layers]
    return [m for m, i, a in known if not any(j > i and b < a for _, j, b in known)]


def operate(
    front: Sequence[Layer],
    first: float,
    tries: int,
    enough: float,
    judge: Callable[[], tuple[float, float]],
    run: Run,
) -> None:
    """Searches a step on each layer and moves one, for good; see `search` for the arguments.

    Of all steps that forget it is the one with the least harm, of these the least in units of ‖θ_l‖ / ‖g_f‖; where none
    forgets, the one that leaves least.

    Raises:
        Mismatch: If there is no layer to move.
    """
    if not front:
        raise Mismatch(
            "the forget loss has no gradient at any layer that may be moved, so no step can be taken; choose a method that does not go by it, such as finetune"
        )
    tried = [
        made for layer in run.track(front, "unlearn") for made in search(layer, first, tries, enough, judge)
    ]

    def rank(made: Tried) -> tuple[bool, float, float]:
        far = made.size * made.layer.importance
        return (False, made.harm, far) if made.left <= enough else (True, made.left, far)

    best = min(tried, key=rank)
    step(best.layer, best.layer.weight.detach().clone(), best.size)
    for made in (*tried, best):
        run.note(size=made.size, left=made.left, harm=made.harm)


def per_example(losses: Iterable[Tensor], n: int, size: int) -> Iterator[Tensor]:
    """Scalars whose mean is the mean over examples, for `mean_gradients`, though a last batch is smaller.

    Args:
        losses: Of the examples of each batch, with shape (B,).
        n: How many examples there are.
        size: Examples in a batch.
    """
    return (loss.sum() * -(-n // size) / n for loss in losses)


@torch.no_grad()
def search(
    layer: Layer, first: float, tries: int, enough: float, judge: Callable[[], tuple[float, float]]
) -> list[Tried]:
    """Steps along the forget gradient: doubled until one forgets, then bisected towards the smallest that does.

    The weight is put back bit for bit.

    Args:
        layer: What is moved.
        first: The first step, in units of ‖θ_l‖ / ‖g_f‖.
        tries: Steps to try.
        enough: A step forgets when no more than this is left.
        judge: Looks at the model as it is: what is left of what should be forgotten, and the harm to the rest.
    """
    start, made = layer.weight.detach().clone(), []
    low, high, size = 0.0, math.inf, first / layer.importance
    try:
        for _ in range(tries):
            step(layer, start, size)
            made.append(Tried(layer, size, *judge()))
            low, high = (low, size) if made[-1].left <= enough else (size, high)
            size = 2 * size if math.isinf(high) else (low + high) / 2
    finally:
        layer.weight.copy_(start)
    return made


@torch.no_grad()
def step(layer: Layer, start: Tensor, size: float) -> None:
    """Sets a layer to θ_l + λ g_f, with θ_l given as `start`."""
    layer.weight.copy_(start + size * layer.forget)
