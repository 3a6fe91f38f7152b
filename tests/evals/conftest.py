"""A small world of real models, from which evidence is made without training anything long."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from unlearn.data import Resident
from unlearn.metric import Evidence, View
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.testing.tiny_crowds import again

CLASSES = 4
SIZES = {"forget": 40, "retain": 160, "fit": 80, "test": 80}
FACTS = {"seconds": 2.0, "peak_bytes": 1000, "oracle_seconds": 8.0, "read": {"forget": 40, "validation": 7}}


def network():
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES))


def model(noise=0.0):
    """The network that made the labels, its weights moved by so much noise."""
    rng = torch.Generator().manual_seed(4)
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng))
        for p in net.parameters():
            p.add_(noise * torch.randn(p.shape, generator=rng))
    return Classifier(net, CLASSES, build=network)


@pytest.fixture
def handles():
    rng = torch.Generator().manual_seed(5)
    n = sum(SIZES.values())
    x = torch.randn(n, 6, generator=rng)
    teacher = model().module
    with torch.no_grad():
        y = (teacher(x) + torch.randn(n, CLASSES, generator=rng)).argmax(1)
    source, rows = Arrays(x, y), torch.arange(n).split(list(SIZES.values()))
    return {name: Resident(source, rows=r) for name, r in zip(SIZES, rows, strict=True)}


def evidence(handles, subjects, removed=(), **rest):
    """Evidence over these models; with removed classes, the views that a class request has."""
    test, fit = handles["test"].y, handles["fit"].y
    views = {"audit": View("test", torch.arange(len(test))), "audit_fit": View("fit", torch.arange(len(fit)))}
    if removed:
        gone = torch.isin(test, torch.tensor(removed))
        views = {
            "audit": View("test", gone.nonzero().flatten()),
            "audit_fit": View("fit", torch.isin(fit, torch.tensor(removed)).nonzero().flatten()),
            "test_forget": View("test", gone.nonzero().flatten()),
            "test_retain": View("test", (~gone).nonzero().flatten()),
        }
    kind = "class" if removed else "random"
    return again(Evidence(subjects, handles, views, kind, tuple(removed), facts=FACTS, **rest))


@pytest.fixture
def build():
    """Makes a model: `build(noise)`."""
    return model


@pytest.fixture
def world(handles):
    """Evidence of four different models; call it to change models (None leaves one out) or removed classes."""

    def make(removed=(), **subjects):
        moved = {"original": 0.0, "unlearned": 0.3, "oracle": 0.2, "oracle2": 0.25}
        chosen = {**{who: model(noise) for who, noise in moved.items()}, **subjects}
        return evidence(handles, {who: s for who, s in chosen.items() if s is not None}, removed)

    return make


@pytest.fixture
def shuffled():
    """The same evidence with every set in another order."""

    def make(ev):
        rng = torch.Generator().manual_seed(9)
        orders = {name: torch.randperm(len(h), generator=rng) for name, h in ev.handles.items()}
        moved = {name: h.take(h.rows[orders[name]]) for name, h in ev.handles.items()}
        views = {name: replace(v, rows=orders[v.base].argsort()[v.rows]) for name, v in ev.views.items()}
        return again(ev, handles=moved, views=views, passes=Counter())

    return make
