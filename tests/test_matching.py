"""Fitting a subject to outputs that are known: what is trained on, the scale of the loss, the loop."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from unlearn.data import Batch, Counted, Resident
from unlearn.ops import matching
from unlearn.ops.matching import Steps, lesson, match, repeats, some
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

C = 3


def handle(n, first=0):
    x = torch.arange(first, first + n).float()[:, None]
    whole = Resident(Arrays(torch.arange(100).float()[:, None], torch.zeros(100).long()))
    assert torch.equal(whole.source.x[first : first + n], x)
    return Counted(whole.take(torch.arange(first, first + n)))


@pytest.mark.parametrize(
    ("n", "times", "wanted"),
    [
        (3, 1.0, "012"),
        (4, 1.5, "012301"),
        (3, 1.5, "0120"),
        (3, 2.9, "01201201"),
        (3, 0.0, ""),
        (2, 5.0, "0101010101"),
    ],
)
def test_forget_examples_are_repeated_and_the_fraction_is_rounded_down(n, times, wanted):
    assert repeats(n, times) == [int(c) for c in wanted]


@pytest.mark.parametrize("size", [512, 4])
def test_as_many_examples_as_asked_are_drawn_without_replacement(monkeypatch, size):
    monkeypatch.setattr(matching, "SIZE", size)
    got = some(handle(20), 7, torch.Generator().manual_seed(0))
    assert len(got) == len(got.x) == 7 and len(set(got.index.tolist())) == 7
    assert got.index.tolist() != sorted(got.index.tolist())
    assert torch.equal(got.x[:, 0].long(), got.index)
    counted = handle(20)
    assert some(counted, 8).index.tolist() == list(range(8)) and counted.read == 8
    assert some(handle(5), 99).index.tolist() == list(range(5))


def test_a_lesson_holds_both_sets_with_what_should_be_said():
    forget, retain = some(handle(2), 2), some(handle(3, 50), 3)
    taught = lesson(forget, retain, 1.5, lambda b: 10 * b.x + torch.tensor([0.0, 1.0]))
    (batch,) = taught.batches(100)
    assert batch.x[:, 0].tolist() == [0, 1, 0, 50, 51, 52]
    assert batch.y.tolist() == [[10 * v, 10 * v + 1] for v in (0.0, 1.0, 0.0, 50.0, 51.0, 52.0)]


@pytest.mark.parametrize("pull", [0.0, 0.7])
def test_the_loop_is_that_of_plain_torch(pull):
    """The loss is a mean over examples and classes: its scale against the pull to the original decides the path."""
    torch.manual_seed(0)
    net = nn.Linear(4, C)
    student = Classifier(copy.deepcopy(net), C)
    x, t = torch.randn(5, 4), torch.randn(5, C)
    steps = Steps(lr=0.05, decay=0.5, epochs=3, batch_size=2, pull=pull, shuffle=False)
    match(student, Resident(Arrays(x, t)), steps, Run())
    start = [p.detach().clone() for p in net.parameters()]
    opt = torch.optim.Adam(net.parameters(), lr=0.05)
    for epoch in range(3):
        for group in opt.param_groups:
            group["lr"] = 0.05 * 0.5**epoch
        for rows in torch.arange(5).split(2):
            far = sum(torch.norm(p - q) ** 2 for p, q in zip(net.parameters(), start, strict=True))
            opt.zero_grad()
            (mse_loss(net(x[rows]), t[rows]) + pull * far).backward()
            opt.step()
    for p, q in zip(student.module.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("flag", [True, False])
def test_the_loop_is_in_train_mode(flag):
    """Batch norm takes the statistics of batches and follows them, dropout drops; flags are put back."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, C)).train(flag)
    student, x, t = Classifier(copy.deepcopy(net), C), torch.randn(8, 4), torch.randn(8, C)
    torch.manual_seed(1)
    match(student, Resident(Arrays(x, t)), Steps(0.05, 0.5, 3, 4, 0.0, False), Run())
    assert all(m.training == flag for m in student.module.modules())
    torch.manual_seed(1)
    opt = torch.optim.Adam(net.train().parameters(), lr=0.05)
    for epoch in range(3):
        opt.param_groups[0]["lr"] = 0.05 * 0.5**epoch
        for rows in torch.arange(8).split(4):
            opt.zero_grad()
            mse_loss(net(x[rows]), t[rows]).backward()
            opt.step()
    torch.testing.assert_close(student.module.state_dict(), net.state_dict())
    assert net[1].running_mean.abs().max() > 0


def test_a_drawn_order_differs_from_pass_to_pass(monkeypatch):
    orders = []

    class Watched:
        module = nn.Linear(1, 1)

        def outputs(self, batch):
            orders.append(batch.index.tolist())
            return self.module(batch.x)

    taught = Resident(Arrays(torch.randn(8, 1), torch.randn(8, 1)))
    for shuffle in (True, False):
        match(Watched(), taught, Steps(0.1, 1.0, 2, 8, 0.0, shuffle), Run())
    assert orders[0] != orders[1] and orders[2] == orders[3] == list(range(8))
    assert all(sorted(o) == list(range(8)) for o in orders)


def test_frozen_weights_stay():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    taught = Resident(Arrays(torch.randn(4, 2), torch.randn(4, 1)))
    last = net[1].weight.detach().clone()
    match(Classifier(net, 1), taught, Steps(0.1, 1.0, 1, 4, 0.1, True), Run())
    assert torch.equal(net[0].weight, before) and not torch.equal(net[1].weight, last)


def test_a_batch_has_no_targets_of_its_own():
    """The sets of label-free methods have sealed ones; ids stand in their place and nothing reads them."""
    batch = some(Counted(handle(3)._inner, unlabeled="this method", name="forget"), 3)
    assert isinstance(batch, Batch) and torch.equal(batch.y, batch.index)
