"""What a method asked the tiny text-to-image model while it ran, for tests that follow it with plain torch."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn.subjects.text_to_image import TextToImage


@dataclass
class Call:
    """One prediction: its inputs, and whether it was made for a gradient."""

    z: Tensor
    t: Tensor
    cond: Any
    grad: bool


def watch(monkeypatch):
    """The list to which every prediction from now on is added."""
    calls, real = [], TextToImage.predict

    def predict(self, z, t, cond):
        assert not any(m.training for m in self.denoiser.modules())
        calls.append(Call(z.clone(), t.clone(), cond, torch.is_grad_enabled()))
        return real(self, z, t, cond)

    monkeypatch.setattr(TextToImage, "predict", predict)
    return calls


def forbid_copies(monkeypatch, deep=False):
    """Lets every further clone of a model fail, and every deep copy of anything where asked."""

    def refuse(*args, **kwargs):
        raise AssertionError("a second model was made")

    monkeypatch.setattr(TextToImage, "clone", refuse)
    if deep:
        monkeypatch.setattr(copy, "deepcopy", refuse)


def raw(net, z, t, states):
    """A prediction of a diffusers UNet, without this package."""
    return net(z, t, encoder_hidden_states=states).sample


def moved(before, after):
    """Names of the parameters of two modules that differ in a bit."""
    old = dict(before.named_parameters())
    return {n for n, p in after.named_parameters() if not torch.equal(p, old[n])}
