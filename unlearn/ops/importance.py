"""How much each weight matters to a set: gradients and squared gradients, of batches or of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import unfold

from unlearn.data import Batch, Handle
from unlearn.subject import HasLoss, mode

Loss = Callable[[Batch], Tensor]


def _training_loss(subject: HasLoss, rng: Generator | None) -> Loss:
    return lambda batch: subject.loss(batch, rng)


def gradient_of_sum(subject: HasLoss, data: Handle, size: int, rng: Generator | None = None) -> list[Tensor]:
    """Sum over batches of the gradient of the mean loss, in evaluation mode and fixed order.

    Args:
        subject: The model.
        data: The set.
        size: Examples in a batch; a smaller last batch weighs as much as a full one.
        rng: For losses that draw.

    Returns:
        One tensor for each parameter, of its shape.
    """
    total = _zeros(subject)
    for grads in _batch_gradients(subject, data, size, _training_loss(subject, rng)):
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

    One backward pass serves a whole batch: the layers' inputs a and output gradients δ are caught, and each
    layer squares its own per-example gradients (for a linear layer on rows, (δ²)ᵀ(a²), and nothing of size
    B × P is made). A model with other kinds of weights falls back to one backward pass for each example.

    Args:
        subject: The model; every example's loss must depend on its own row only (batch norm is frozen).
        data: The set.
        size: Examples in a pass; the result does not depend on it.
        rng: For losses that draw.
        loss: Per-example loss to use instead of the training loss.

    Returns:
        One tensor for each parameter, of its shape.
    """
    fn = loss or _training_loss(subject, rng)
    if not all(_known(m) for m in _owners(subject.module)) or _tied(subject.module):
        return _mean_over_batches(subject, data, 1, fn, Tensor.square)
    total: dict[Tensor, Tensor] = {p: torch.zeros_like(p) for p in subject.module.parameters()}
    with mode(subject.module, train=False):
        for batch in data.batches(size):
            with _recording(subject.module) as tape:
                torch.autograd.grad(fn(batch).sum(), [p for p in total if p.requires_grad], allow_unused=True)
            for module, calls in tape.items():
                for p, value in _squares(module, calls, len(batch)):
                    total[p].add_(value)
    return [t / len(data) for t in total.values()]


def _zeros(subject: HasLoss) -> list[Tensor]:
    return [torch.zeros_like(p) for p in subject.module.parameters()]


def _batch_gradients(subject: HasLoss, data: Handle, size: int, loss: Loss) -> Iterator[list[Tensor]]:
    params = list(subject.module.parameters())
    with mode(subject.module, train=False):
        for batch in data.batches(size):
            grads = torch.autograd.grad(loss(batch).mean(), params, allow_unused=True)
            yield [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]


def _mean_over_batches(
    subject: HasLoss, data: Handle, size: int, loss: Loss, of: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    total, steps = _zeros(subject), 0
    for grads in _batch_gradients(subject, data, size, loss):
        torch._foreach_add_(total, [of(g) for g in grads])
        steps += 1
    return [t / max(steps, 1) for t in total]


Calls = list[tuple[Tensor, Tensor]]


def _owners(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]


def _known(m: nn.Module) -> bool:
    if isinstance(m, nn.Conv2d):
        return m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    return type(m) in (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def _tied(module: nn.Module) -> bool:
    """Whether a parameter belongs to several modules, or a layer has a frozen one."""
    owned = [p for m in _owners(module) for p in m.parameters(recurse=False)]
    return len(set(owned)) != len(owned) or not all(p.requires_grad for p in owned)


@contextmanager
def _recording(module: nn.Module) -> Iterator[dict[nn.Module, Calls]]:
    """Catches, for each call of a layer that owns weights, its input and the gradient of its output."""
    tape: dict[nn.Module, Calls] = {}

    def see(m: nn.Module, inputs: Any, out: Tensor) -> None:
        a = inputs[0].detach()
        out.register_hook(lambda delta: tape.setdefault(m, []).append((a, delta.detach())))

    hooks = [m.register_forward_hook(see) for m in _owners(module)]
    try:
        yield tape
    finally:
        for h in hooks:
            h.remove()


def _squares(m: nn.Module, calls: Calls, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sum over examples of the squared gradient of each parameter of one layer."""
    if isinstance(m, nn.Linear) and len(calls) == 1 and calls[0][0].ndim == 2:
        a, delta = calls[0]
        yield m.weight, delta.square().T @ a.square()
        if m.bias is not None:
            yield m.bias, delta.square().sum(0)
        return
    grads: dict[Tensor, Tensor] = {}
    for a, delta in calls:
        for p, g in _per_example(m, a, delta, size):
            grads[p] = grads[p] + g if p in grads else g
    for p, g in grads.items():
        yield p, g.square().sum(0).view_as(p)


def _per_example(m: nn.Module, a: Tensor, delta: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradient of each example for each parameter of one call of a layer, with shape (B, *)."""
    bias = getattr(m, "bias", None)
    if isinstance(m, nn.Linear):
        a, delta = a.reshape(size, -1, a.shape[-1]), delta.reshape(size, -1, delta.shape[-1])
        yield m.weight, torch.einsum("blo,bli->boi", delta, a)
        wanted = delta.sum(1)
    elif isinstance(m, nn.Conv2d):
        patches = unfold(a, m.kernel_size, m.dilation, m.padding, m.stride)  # type: ignore[arg-type]
        delta = delta.flatten(2)
        yield m.weight, torch.bmm(delta, patches.transpose(1, 2))
        wanted = delta.sum(2)
    elif isinstance(m, nn.LayerNorm):
        hat = torch.nn.functional.layer_norm(a, m.normalized_shape, eps=m.eps)
        keep = (size, -1, *m.normalized_shape)
        yield m.weight, (delta * hat).reshape(keep).sum(1)
        wanted = delta.reshape(keep).sum(1)
    else:
        assert isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
        hat = torch.nn.functional.batch_norm(a, m.running_mean, m.running_var, eps=m.eps)
        yield m.weight, (delta * hat).reshape(size, hat.shape[1], -1).sum(2)
        wanted = delta.reshape(size, hat.shape[1], -1).sum(2)
    if bias is not None:
        yield bias, wanted
