"""Stochastic teacher: both phases in order, what each copies, and that erasing reaches the teacher."""

import pytest
import torch
from one_weight import split
from small_net import classifier, images, same
from torch import nn
from torch.nn.functional import kl_div

from unlearn.data import Resident
from unlearn.methods import stochastic_teacher
from unlearn.methods.stochastic_teacher import StochasticTeacher
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

C = 4
X = torch.randn(14, 3, generator=torch.Generator().manual_seed(7))


def linear(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, C)


def subject():
    return Classifier(linear(0), C, build=lambda: linear(100))


def both():
    whole = Resident(Arrays(X, torch.zeros(14).long()))
    return split(whole.take(torch.arange(4)), whole.take(torch.arange(4, 14)))


def sure(seed):
    """A network with large logits, as training makes them, in evaluation mode."""
    net = classifier(seed).module
    net[-1].weight.data *= 30
    return net


def gap(teacher, student, x):
    return kl_div(student(x).log_softmax(1), teacher(x).softmax(1), reduction="batchmean").item()


def test_the_untrained_teacher_comes_first_and_then_the_original(monkeypatch):
    """Losses and step sizes of every step; the student is moved by hand between the phases."""
    steps, student = [], subject()

    def record(opt, loss):
        steps.append((opt.param_groups[0]["lr"], loss.item()))
        student.module.load_state_dict(linear(5).state_dict())

    monkeypatch.setattr(stochastic_teacher, "descend", record)
    method = StochasticTeacher(erase_lr=0.5, erase_epochs=1, lr=0.25, epochs=2, batch_size=16)
    method.unlearn(student, both(), Run())
    f, r = X[:4], X[4:]
    wanted = [(0.5, gap(linear(100), linear(0), f)), *[(0.25, gap(linear(0), linear(5), r))] * 2]
    assert steps == [(lr, pytest.approx(loss, rel=1e-5)) for lr, loss in wanted]


def test_erasing_removes_nine_tenths_of_the_gap_to_the_untrained_network():
    """Section 5 of the specification, with its setting: one pass with steps of 1e-3, here 200 of 128 examples.

    The gap is that of evaluation mode before and after. The original is sure of itself, the teacher is not.
    """
    teacher, forget = classifier(seed=3).module, images(200 * 128)
    student = Classifier(sure(0), 3, build=lambda: classifier(seed=3).module)
    method = StochasticTeacher.preset("reconstructed", epochs=0)
    done = method.unlearn(student, split(forget, images(8, seed=1)), Run()).module
    assert not done.training and not teacher.training
    x = next(forget.batches(1000)).x
    with torch.no_grad():
        before, after = gap(teacher, sure(0), x), gap(teacher, done, x)
    assert before > 0.5
    assert after < before / 10


def test_the_setting_is_that_of_the_specification():
    """One pass that erases, steps of 1e-4 to 1e-3, batches of 128 to 256."""
    method = StochasticTeacher.preset("reconstructed")
    assert method.erase_epochs == 1 and min(method.erase_lr, method.lr) >= 1e-4
    assert max(method.erase_lr, method.lr) <= 1e-3 and 128 <= method.batch_size <= 256


def test_repairing_brings_the_original_answers_back():
    erased = StochasticTeacher(erase_lr=0.05, erase_epochs=30, epochs=0).unlearn(subject(), both(), Run())
    done = StochasticTeacher(erase_lr=0.05, erase_epochs=30, lr=0.05, epochs=30).unlearn(
        subject(), both(), Run()
    )
    r = X[4:]
    with torch.no_grad():
        assert gap(linear(0), done.module, r) < gap(linear(0), erased.module, r) / 10


def test_the_same_seed_gives_the_same_weights_and_draws_the_teacher():
    def run(seed):
        student = Classifier(classifier().module, 3)  # without a build every layer is drawn anew
        data = split(images(12), images(20, seed=1))
        return StochasticTeacher().unlearn(student, data, Run(seed)).module

    assert same(run(1), run(1))
    assert not same(run(1), run(2))
