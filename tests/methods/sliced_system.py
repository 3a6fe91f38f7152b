"""A small convolutional classifier with batch norm in two shards of three slices, and its data."""

import torch

from unlearn.data import Resident, Split
from unlearn.networks import seeded
from unlearn.ops.orders import rotations
from unlearn.ops.recipe import SGD
from unlearn.ops.staged import Plan
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.subjects.sliced_classifier import SlicedClassifier

CLASSES = 3
RECIPE = SGD(epochs=4, lr=0.05, batch_size=8)
SISA = Plan(2, rotations(3, 1))
S3T = Plan(2, rotations(3, 3), layered=True, vote="logits")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(24, 8), torch.nn.ReLU(), torch.nn.Linear(8, CLASSES),
    )  # fmt: skip


def data(n=72):
    y = torch.arange(n) % CLASSES
    x = torch.randn(CLASSES, 1, 6, 6, generator=rng(1))[y] + torch.randn(n, 1, 6, 6, generator=rng(2))
    return Resident(Arrays(x, y))


def start():
    return Classifier(seeded(net, rng()), CLASSES, RECIPE, net)


def system(plan, recipe=RECIPE):
    return SlicedClassifier.of(Classifier(seeded(net, rng()), CLASSES, recipe, net), plan, rng())


def without(handle, ids):
    return handle.take(handle.rows[~torch.isin(handle.rows, ids)])


def trained(plan, handle, seed=0):
    made = system(plan)
    made.fit(handle, Run(seed))
    return made


def split(handle, ids):
    sets = {"forget": handle.only(ids), "retain": without(handle, ids)}
    return Split(**sets, validation=None, surrogate=None, statistics=None)


def state(subject):
    return {n: t.detach().clone() for n, t in subject.module.state_dict().items()}


def differing(a, b):
    """Names of tensors that are not bit-equal."""
    assert a.keys() == b.keys()
    return [n for n in a if not torch.equal(a[n], b[n])]
