"""Amnesiac relabelling: one wrong label for good, mixed batches, and a step by hand."""

import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy

from unlearn.data import Resident, Split
from unlearn.methods.amnesiac import Amnesiac, wrong_labels
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

C, N_F = 4, 6
X = torch.randn(18, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(18) % C


class Recorded(Classifier):
    """Writes down the examples of each step."""

    def loss(self, batch, rng=None):
        STEPS.append(batch)
        return super().loss(batch, rng)


STEPS = []


def subject():
    torch.manual_seed(0)
    STEPS.clear()
    return Recorded(nn.Linear(3, C).double(), C)


def split():
    whole, rows = Resident(Arrays(X, Y), lambda x, _rng: x), torch.arange(len(X))
    return Split(whole.take(rows[:N_F]), whole.take(rows[N_F:]), None, None, None)


def test_wrong_labels_are_uniform_over_the_other_classes():
    n = 3000
    data = Resident(Arrays(torch.zeros(n, 1), torch.arange(n) % C))
    shift = (wrong_labels(data, C, 7, torch.Generator().manual_seed(0))(torch.arange(n)) - data.y) % C
    counts = shift.bincount(minlength=C).tolist()
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 0.01


def test_the_labels_do_not_depend_on_the_pass():
    data = split().forget
    a, b = (wrong_labels(data, C, size, torch.Generator().manual_seed(3)) for size in (1, 64))
    assert a(data.rows).tolist() == b(data.rows).tolist()


def test_every_epoch_shows_each_example_once_and_a_forgotten_one_always_with_the_same_wrong_label():
    model = subject()
    Amnesiac(epochs=3, batch_size=6).unlearn(model, split(), Run())
    assert [len(b) for b in STEPS] == [6] * 9
    assert [int((b.index < N_F).sum()) for b in STEPS] == [2] * 9
    index, y = (torch.cat([getattr(b, f) for b in STEPS]) for f in ("index", "y"))
    assert index.bincount().tolist() == [3] * len(X)
    for i in range(len(X)):
        (label,) = set(y[index == i].tolist())
        assert (label == Y[i]) == (i >= N_F)


def test_one_step_follows_adam_on_the_mean_over_both_sets():
    model, lr = subject(), 1e-3
    start = [p.detach().clone() for p in model.module.parameters()]
    labels = Y.clone()
    labels[:N_F] = wrong_labels(split().forget, C, 64, Run(2).rng)(torch.arange(N_F))
    done = Amnesiac(epochs=1, lr=lr, batch_size=len(X)).unlearn(model, split(), Run(2))
    again = subject()
    grads = torch.autograd.grad(cross_entropy(again.module(X), labels), list(again.module.parameters()))
    for p, s, g in zip(done.module.parameters(), start, grads, strict=True):
        torch.testing.assert_close(p.detach(), s - lr * g / (g.abs() + 1e-8), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "forget"), [(1, [1] * 6), (2, [1] * 6), (9, [3, 3]), (100, [6])])
def test_each_batch_holds_its_share_of_the_forget_set(size, forget):
    Amnesiac(epochs=1, batch_size=size).unlearn(subject(), split(), Run())
    counts = [int((b.index < N_F).sum()) for b in STEPS]
    assert [c for c in counts if c] == forget
    assert sum(len(b) for b in STEPS) == len(X)
