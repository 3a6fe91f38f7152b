"""Bad teacher: the mixed target and the scale of the loss, against torch's kl_div."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import kl_div

from unlearn.data import Counted, Resident, Split
from unlearn.methods import bad_teacher
from unlearn.methods.bad_teacher import BadTeacher
from unlearn.ops.distill import divergence
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

N_F, N_R, C = 4, 12, 5


def subject(seed=0):
    def build():
        torch.manual_seed(100)  # the incompetent teacher, the same each time
        return nn.Linear(3, C)

    torch.manual_seed(seed)
    return Classifier(nn.Linear(3, C), C, build=build)


def split():
    x = torch.randn(N_F + N_R, 3, generator=torch.Generator().manual_seed(7))
    whole = Resident(Arrays(x, torch.zeros(len(x), dtype=torch.long)))
    rows = torch.arange(len(x))
    return Split(Counted(whole.take(rows[:N_F])), Counted(whole.take(rows[N_F:])), None, None, None)


@pytest.fixture
def losses(monkeypatch):
    """The loss of each step; nothing moves."""
    found = []
    monkeypatch.setattr(bad_teacher, "descend", lambda _opt, loss: found.append(loss.item()))
    return found


@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_target_is_the_bad_teacher_on_forget_and_the_good_one_on_retain(losses, reduction, temperature):
    torch.manual_seed(3)
    student, data = subject(), split()
    method = BadTeacher(epochs=1, batch_size=16, share=1.0, temperature=temperature, reduction=reduction)
    method.unlearn(student, data, Run())
    flag = torch.cat([torch.ones(N_F, 1), torch.zeros(N_R, 1)])
    x = data.forget._inner.source.x
    good, bad = student.module(x) / temperature, student.build()(x) / temperature
    q = flag * bad.softmax(1) + (1 - flag) * good.softmax(1)
    cells = len(x) * (C if reduction == "mean" else 1)
    wanted = kl_div(good.log_softmax(1), q, reduction="sum").item() / cells
    assert losses == [pytest.approx(wanted, rel=1e-5)]


def test_the_mean_over_classes_is_c_times_smaller(losses):
    for reduction in ("batchmean", "mean"):
        BadTeacher(epochs=1, batch_size=16, share=1.0, reduction=reduction).unlearn(subject(), split(), Run())
    assert losses[0] / losses[1] == pytest.approx(C)


@pytest.mark.parametrize(("share", "size", "retain"), [(0.5, 10, 6), (1.0, 8, 12), (0.5, 5, 6), (0.1, 2, 1)])
def test_each_epoch_reads_the_forget_set_once_and_a_share_of_the_retain_set(losses, share, size, retain):
    data = split()
    BadTeacher(epochs=2, batch_size=size, share=share).unlearn(subject(), data, Run())
    assert data.retain.read == 2 * retain
    assert data.forget.read == 3 * N_F  # once more for the bad teacher's answers


def test_training_leads_to_the_bad_teacher_on_forget_and_keeps_retain():
    student, data = subject(), split()
    start = student.clone()
    BadTeacher(epochs=60, lr=0.05, share=1.0).unlearn(student, data, Run())
    f, r = (next(h._inner.batches(64)) for h in (data.forget, data.retain))
    bad = student.build()(f.x)
    now, before = (divergence(s, bad, s.outputs(f)).mean() for s in (student, start))
    assert now < before / 2
    assert divergence(student, start.outputs(r), student.outputs(r)).mean() < now


def test_other_outputs_are_means_of_gaussians():
    a, b, t = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5], [1.0]]), 3.0
    found = divergence(object(), a, b, t)
    assert torch.allclose(found, kl_divergence(Normal(a, t), Normal(b, t))[:, 0])
