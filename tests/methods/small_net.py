"""A small convolutional classifier on random images, for tests that compare whole runs."""

import torch
from torch import nn

from unlearn.data import Resident
from unlearn.ops.recipe import SGD
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def classifier(seed=0, epochs=2):
    """An untrained classifier with a recipe; its batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build()
        module(torch.randn(32, 1, 6, 6))
        module.eval()
    return Classifier(module, 3, recipe=SGD(epochs=epochs, batch_size=8, lr=0.05), build=build)


def images(n, seed=0, dtype=torch.float32):
    """A set of n random images of three classes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 6, 6, generator=rng).to(dtype)
    return Resident(Arrays(x, torch.randint(0, 3, (n,), generator=rng)), lambda x, rng: x)


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    """Whether two modules have the same weights and buffers, bit for bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
