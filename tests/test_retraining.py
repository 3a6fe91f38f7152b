"""Training on after weights were lost: what is read, in which mode, and with which step sizes."""

import pytest
import torch
from torch import nn

from unlearn.data import Counted, Resident, Split
from unlearn.ops import retraining
from unlearn.ops.retraining import repair
from unlearn.ops.steps import sgd
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(14) % 2


def subject():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double().eval(), 2)


def sets():
    whole = Resident(Arrays(X, Y), lambda x, _rng: x)
    return Split(
        Counted(whole.take(torch.arange(4))), Counted(whole.take(torch.arange(4, 14))), None, None, None
    )


def test_every_pass_has_its_step_size_and_reads_the_retain_set_alone(monkeypatch):
    data, model, seen = sets(), subject(), []
    opt = sgd(model.module.parameters(), 0.5, 0.9, 0.0)

    def note(opt, loss):
        seen.append((opt.param_groups[0]["lr"], model.module.training))
        opt.step()  # without a gradient nothing moves

    monkeypatch.setattr(retraining, "descend", note)
    repair(model, data, Run(), opt, (3, 4, lambda e: [1.0, 0.5, 0.1][e] if e < 3 else 0.0))
    assert seen == [(pytest.approx(lr), True) for lr in [0.5] * 3 + [0.25] * 3 + [0.05] * 3]
    assert (data.forget.read, data.retain.read) == (0, 30)
    assert not model.module.training, "the mode is put back"


def test_steps_are_those_of_plain_torch():
    """One batch in a pass, so that the order does not count: SGD with momentum, decay and a schedule of its own."""
    model, twin = subject(), subject()
    repair(
        model, sets(), Run(), sgd(model.module.parameters(), 0.1, 0.9, 0.01), (4, 64, lambda e: 1 / (e + 1))
    )
    opt = torch.optim.SGD(twin.module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    twin.module.train()
    for e in range(4):
        opt.param_groups[0]["lr"] = 0.1 / (e + 1)
        opt.zero_grad()
        nn.functional.cross_entropy(twin.module(X[4:]), Y[4:]).backward()
        opt.step()
    for k, v in model.module.state_dict().items():
        torch.testing.assert_close(v, twin.module.state_dict()[k], rtol=1e-9, atol=1e-12)
