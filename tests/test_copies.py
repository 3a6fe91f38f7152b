"""No method that erases holds a second copy of what it does not train."""

import gc

import pytest
import torch
from torch import nn

from unlearn.registry import fitting, methods
from unlearn.runtime import Run, seeded_globals
from unlearn.testing.runs import lend
from unlearn.testing.tiny import specimen

LOOKED_AT = 20  # calls of the denoiser, after which the heap is searched at every hundredth
ENOUGH = 16  # iterations, in which every phase of a method is met
NAMES = [n for n in fitting("text-to-image") if n != "given"]


def matrices(module):
    return {n: p for n, p in module.named_parameters() if p.ndim > 1}


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def alive():
    """All tensors on the heap but for what is frozen there, one for each storage."""
    found = (t for t in gc.get_objects() if issubclass(type(t), torch.Tensor) and t.layout is torch.strided)
    return {t.untyped_storage().data_ptr(): t for t in found}


class Watch:
    """The most bytes that were held beside the model: copies of its weights, and frozen parameters of whatever kind.

    Args:
        module: Its weights count as the model itself.
    """

    def __init__(self, module):
        self.weights = {n: p.detach().clone() for n, p in matrices(module).items()}
        self.known, self.calls, self.most = alive(), 0, 0

    def __call__(self, module, args):
        if type(module).__name__ != "UNet2DConditionModel":
            return
        self.calls += 1
        if self.calls <= LOOKED_AT or self.calls % 100 == 0:
            new = (t for at, t in alive().items() if at not in self.known)
            self.most = max(self.most, size(t for t in new if self.counts(t.detach(), t)))

    def counts(self, plain, t):
        if isinstance(t, nn.Parameter) and not t.requires_grad:
            return True
        return any(w.shape == plain.shape and torch.equal(w, plain) for w in self.weights.values())


def watched(unlearn):
    """How many bytes were held beside a tiny model while `unlearn` ran on it, and how many of its own were changed."""
    tiny = specimen("unet").copy()
    watch = Watch(tiny.subject.module)
    hook = nn.modules.module.register_module_forward_pre_hook(watch)
    gc.freeze()  # what was there before need not be looked at again
    try:
        with seeded_globals(0, torch.device("cpu")):
            done = unlearn(tiny)
    finally:
        gc.unfreeze()
        hook.remove()
    after = matrices(done.module)
    changed = [w for n, w in watch.weights.items() if n not in after or not torch.equal(after[n], w)]
    return watch, size(changed)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_holds_at_most_one_copy_of_what_it_trains(name):
    cls = methods.get(name)
    few = {k.name: min(k.default, ENOUGH) for k in cls.knobs() if k.name == "iterations"}
    method = cls(**few)

    def unlearn(tiny):
        return method.unlearn(tiny.subject, lend(method, tiny, sealed=False)[0], Run(0))

    watch, trained = watched(unlearn)
    assert watch.most <= trained, f"{watch.most} bytes beside the model, {trained} trained"


def test_a_second_model_is_seen():
    def unlearn(tiny):
        teacher = tiny.subject.clone()
        teacher.loss(next(tiny.sets["forget"].batches(4)))
        return tiny.subject

    watch, trained = watched(unlearn)
    assert watch.calls == 1 and trained == 0
    assert watch.most >= size(watch.weights.values())
