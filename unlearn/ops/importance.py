"""How much each weight matters to a set: gradients and squared gradients, of batches or of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.functional import batch_norm, group_norm, layer_norm, unfold

from unlearn.data import Batch, Handle
from unlearn.subject import HasLoss, mode

Loss = Callable[[Batch], Tensor]


def _training_loss(subject: HasLoss, rng: Generator | None) -> Loss:
    return lambda batch: subject.loss(batch, rng)


def gradient_of_sum(
    subject: HasLoss,
    data: Handle,
    size: int,
    rng: Generator | None = None,
    loss: Loss | None = None,
    clip: float = 0.0,
) -> list[Tensor]:
    """Sum over batches of the gradient of the mean loss, in evaluation mode and fixed order.

    Args:
        subject: The model.
        data: The set.
        size: Examples in a batch; a smaller last batch weighs as much as a full one.
        rng: For losses that draw.
        loss: Per-example loss to use instead of the training loss.
        clip: Euclidean norm, over all parameters, to which the gradient of a batch is cut; 0 leaves it.

    Returns:
        One tensor for each parameter, of its shape.
    """
    total = _zeros(subject)
    for grads in _batch_gradients(subject, data, size, loss or _training_loss(subject, rng)):
        if clip:
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            torch._foreach_mul_(grads, (clip / norm.clamp_min(1e-12)).clamp_max(1.0))
        torch._foreach_add_(total, grads)
    return total


def squared_batch_gradient(
    subject: HasLoss, data: Handle, size: int, rng: Generator | None = None, loss: Loss | None = None
) -> list[Tensor]:
    """Mean over batches of the squared gradient of the mean loss; batch size and order are part of it."""
    return _mean_over_batches(subject, data, size, loss or _training_loss(subject, rng), Tensor.square)


def absolute_batch_gradient(
    subject: HasLoss, data: Handle, size: int, rng: Generator | None = None, loss: Loss | None = None
) -> list[Tensor]:
    """Mean over batches of the absolute gradient of the mean loss; batch size and order are part of it."""
    return _mean_over_batches(subject, data, size, loss or _training_loss(subject, rng), Tensor.abs)


def squared_example_gradient(
    subject: HasLoss, data: Handle, size: int, rng: Generator | None = None, loss: Loss | None = None
) -> list[Tensor]:
    """Mean over examples of the squared gradient of each example's loss: the diagonal empirical Fisher.

    One backward pass to the layers' outputs serves a whole batch. With the layers' inputs a and output
    gradients δ of example n at positions l, a weight matrix gets Σ_n (Σ_l δ_nl a_nlᵀ)², which for a single
    position is (δ²)ᵀ(a²). No gradient of a weight is taken, and no tensor of size B × P is made.

    A model with weights that are not in a linear layer, an ungrouped 2-D convolution or a norm, with shared
    weights, or whose layers do not see one row for each example, falls back to a pass for each example.

    Args:
        subject: The model; each example's loss must depend on its own row only (batch norm is frozen), and
            layers must have the examples along their first axis.
        data: The set.
        size: Examples in a pass; the result does not depend on it.
        rng: For losses that draw.
        loss: Per-example loss to use instead of the training loss.

    Returns:
        One tensor for each parameter, of its shape; zero where it is frozen.
    """
    fn = loss or _training_loss(subject, rng)
    total = _from_layers(subject.module, data, size, fn) if _layered(subject.module) else None
    if total is None:
        return _mean_over_batches(subject, data, 1, fn, Tensor.square)
    return [t / max(len(data), 1) for t in total]


def _zeros(subject: HasLoss) -> list[Tensor]:
    return [torch.zeros_like(p) for p in subject.module.parameters()]


def _batch_gradients(subject: HasLoss, data: Handle, size: int, loss: Loss) -> Iterator[list[Tensor]]:
    params = list(subject.module.parameters())
    free = [p for p in params if p.requires_grad]
    with mode(subject.module, train=False):
        for batch in data.batches(size):
            found = torch.autograd.grad(loss(batch).mean(), free, allow_unused=True)
            grads = dict(zip(free, found, strict=True))
            yield [torch.zeros_like(p) if (g := grads.get(p)) is None else g for p in params]


def _mean_over_batches(
    subject: HasLoss, data: Handle, size: int, loss: Loss, of: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    total, steps = _zeros(subject), 0
    for grads in _batch_gradients(subject, data, size, loss):
        torch._foreach_add_(total, [of(g) for g in grads])
        steps += 1
    return [t / max(steps, 1) for t in total]


Calls = list[tuple[Tensor, Tensor]]
"""Input a and output gradient δ of each call of a layer."""

Tape = list[tuple[nn.Module, Tensor, GradientEdge]]
"""Each call of a layer that owns weights: the layer, its input, and where its output is in the graph."""


def _owners(module: nn.Module) -> list[nn.Module]:
    """Layers with weights of their own that are not all frozen."""
    return [m for m in module.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


def _layered(module: nn.Module) -> bool:
    """Whether every weight belongs to one layer whose per-example gradient is known in closed form."""
    owned = [p for m in _owners(module) for _, p in m.named_parameters(recurse=False, remove_duplicate=False)]
    return len(set(owned)) == len(owned) and all(_known(m) for m in _owners(module))


def _known(m: nn.Module) -> bool:
    if {name for name, _ in m.named_parameters(recurse=False)} - {"weight", "bias"}:
        return False
    if type(m) is nn.Conv2d:
        return m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return m.running_mean is not None
    return type(m) in (nn.Linear, nn.GroupNorm, nn.LayerNorm)


@contextmanager
def _recording(module: nn.Module) -> Iterator[Tape]:
    """Catches the calls of all layers that own weights; leaves no hook behind."""
    tape: Tape = []

    def see(m: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
        if out.requires_grad:
            tape.append((m, [*args, *named.values()][0].detach(), get_gradient_edge(out)))

    hooks = [m.register_forward_hook(see, with_kwargs=True) for m in _owners(module)]
    try:
        yield tape
    finally:
        for h in hooks:
            h.remove()


def _from_layers(module: nn.Module, data: Handle, size: int, loss: Loss) -> list[Tensor] | None:
    """Sum over examples of squared gradients; None if the model uses its weights or rows in another way."""
    total: dict[Tensor, Tensor] = {p: torch.zeros_like(p) for p in module.parameters()}
    unseen = [p for p in total if p.requires_grad]
    with mode(module, train=False):
        for batch in data.batches(size):
            with _recording(module) as tape:
                value = loss(batch).sum()
            if any(len(a) != len(batch) for _, a, _ in tape):
                return None
            nodes: Any = [*(edge for _, _, edge in tape), *unseen]
            found = torch.autograd.grad(value, nodes, allow_unused=True)
            calls: dict[nn.Module, Calls] = {}
            for (m, a, _), delta in zip(tape, found[: len(tape)], strict=True):
                if delta is not None:
                    calls.setdefault(m, []).append((a, delta))
            called = {p for m in calls for p in m.parameters(recurse=False)}
            used = zip(unseen, found[len(tape) :], strict=True)
            if any(g is not None and p not in called for p, g in used):
                return None
            unseen = []
            for m, seen in calls.items():
                _add_squares(total, m, seen)
    return list(total.values())


def _add_squares(total: dict[Tensor, Tensor], m: nn.Module, calls: Calls) -> None:
    """Adds a layer's sum over examples of squared gradients to the totals of its free parameters."""
    weight, bias = (p if p is not None and p.requires_grad else None for p in (m.weight, m.bias))
    if isinstance(m, nn.Linear | nn.Conv2d):
        pairs = [_columns(m, a, delta) for a, delta in calls]
        a, delta = (_joined(list(side)) for side in zip(*pairs, strict=True))
        if isinstance(weight, Tensor):
            _add_squared_products(total[weight].flatten(1), delta, a)
        shifts = delta.sum(2)
    else:
        parts = [_scaled(m, a, delta) for a, delta in calls]
        if isinstance(weight, Tensor):
            total[weight].view(-1).add_(torch.stack([s for s, _ in parts]).sum(0).square().sum(0))
        shifts = torch.stack([s for _, s in parts]).sum(0)
    if isinstance(bias, Tensor):
        total[bias].view(-1).add_(shifts.square().sum(0))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _columns(m: nn.Linear | nn.Conv2d, a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (B, I, L) and output gradients (B, O, L) of a layer that is a matrix at each of L positions."""
    if isinstance(m, nn.Linear):
        return a.reshape(len(a), -1, a.shape[-1]).mT, delta.reshape(len(a), -1, delta.shape[-1]).mT
    patches = unfold(a, m.kernel_size, m.dilation, m.padding, m.stride)  # type: ignore[arg-type]
    return patches, delta.flatten(2)


def _add_squared_products(total: Tensor, delta: Tensor, a: Tensor) -> None:
    """Adds Σ_n (δ_n a_nᵀ)² to `total` in place, a few examples at a time so that products stay in the cache.

    Args:
        total: With shape (O, I).
        delta: δ, with shape (B, O, L).
        a: With shape (B, I, L).
    """
    if delta.shape[2] == 1:
        total.add_(delta.squeeze(2).square().mT @ a.squeeze(2).square())
        return
    room = 1 << 16 if total.device.type == "cpu" else 1 << 26
    n = min(len(delta), max(1, room // total.numel()))
    buffer = total.new_empty(n, *total.shape)
    for d, x in zip(delta.split(n), a.split(n), strict=True):
        g = torch.bmm(d, x.mT, out=buffer[: len(d)])
        if len(g) == 1:
            total.addcmul_(g[0], g[0])
        else:
            total.add_(g.mul_(g).sum(0))


def _scaled(m: nn.Module, a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's gradient of a norm's weight and bias, both flattened to (B, C)."""
    if isinstance(m, nn.LayerNorm):
        product = delta * layer_norm(a, m.normalized_shape, eps=m.eps)
        rows = (len(a), -1, m.weight.numel())
        return product.reshape(rows).sum(1), delta.reshape(rows).sum(1)
    if isinstance(m, nn.GroupNorm):
        hat = group_norm(a, m.num_groups, eps=m.eps)
    else:
        assert isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
        hat = batch_norm(a, m.running_mean, m.running_var, eps=m.eps)
    columns = (len(a), m.weight.numel(), -1)
    return (delta * hat).reshape(columns).sum(2), delta.reshape(columns).sum(2)
