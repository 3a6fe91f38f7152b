"""Self-forget SCAR: which classes go, what it reads, the skipped batches, and when it stops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, kl_div

from unlearn.data import Counted, Gaussians, Resident, Sealed, Split
from unlearn.errors import Mismatch, SealedError
from unlearn.methods import scar_self
from unlearn.methods.scar_self import SCARSelf, removed, still_taken
from unlearn.ops.steps import outputs_by_index
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

C, LR = 3, 1e-3
HEAD = [[1.0, 0.2], [-0.3, 1.0], [0.2, -1.0]]
MEAN = [[0.5, 3.0], [2.0, -1.5]]
SURROGATE = torch.tensor(
    [[2.0, 0.5], [0.4, 2.0], [0.1, 1.0], [0.3, -2.0]], dtype=torch.float64
)  # taken for 0 1 1 2


class Lent:
    """Statistics of the classes that are kept, by hand: distances with the identity for P."""

    def __init__(self, labels=(1, 2), mean=MEAN):
        self.given = Gaussians(
            torch.tensor(labels), torch.tensor(mean).double(), torch.eye(2).expand(len(labels), 2, 2)
        )

    def gaussians(self, power=1.0):
        return self.given


def subject():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, C, bias=False)).double()
    net[0].weight.data = torch.eye(2).double()
    net[1].weight.data = torch.tensor(HEAD, dtype=torch.float64)
    return Classifier(net, C)


def handle(x):
    return Counted(Resident(Arrays(x, torch.zeros(len(x)).long()), lambda x, _rng: x))


def split(lent, surrogate=SURROGATE, forget=None):
    sealed = (Sealed(n, "scar-self") for n in ("retain", "validation"))
    return Split(forget or Sealed("forget", "scar-self"), *sealed, handle(surrogate), lent)


def one_epoch(**knobs):
    return SCARSelf(epochs=1, lr=LR, delta=1.0, **knobs)


def pull(student, x):
    """Mean squared distance of unit features to the nearest unit mean."""
    v = student.module[0](x)
    cos = torch.stack([cosine_similarity(v, torch.tensor([m]).double()) for m in MEAN], 1)
    return (2 * (1 - cos)).min(1).values.mean()


def stepped(loss, student):
    """Weights after the first step of Adam."""
    params = list(student.module.parameters())
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return [
        p.detach() - (0 if g is None else LR * g / (g.abs() + 1e-8))
        for p, g in zip(params, grads, strict=True)
    ]


def assert_weights(student, wanted):
    for p, w in zip(student.module.parameters(), wanted, strict=True):
        np.testing.assert_allclose(p.detach(), w, rtol=0, atol=1e-10)


def test_the_removed_classes_are_those_without_statistics():
    assert removed(5, torch.tensor([0, 3, 4])).tolist() == [False, True, True, False, False]
    with pytest.raises(Mismatch, match="every class still has retained examples"):
        removed(2, torch.tensor([0, 1]))


def test_without_a_surrogate_of_the_class_there_is_nothing_to_learn_from():
    with pytest.raises(Mismatch, match="none of 3 surrogates"):
        one_epoch().unlearn(subject(), split(Lent(), SURROGATE[1:]), Run())


def test_pseudo_forget_images_are_pulled_and_the_others_held(monkeypatch):
    losses, student, twin = [], subject(), subject()

    def record(_opt, loss):
        losses.append(loss.item())
        with torch.no_grad():
            student.module[1].weight[0] += 0.3  # so that student and original differ in the second step

    monkeypatch.setattr(scar_self, "descend", record)
    method = SCARSelf(epochs=2, delta=1.0, lambda1=0.6, lambda2=5.0, batch_size=4, target=0.0)
    method.unlearn(student, split(Lent()), Run())
    z0 = SURROGATE[1:] @ torch.tensor(HEAD, dtype=torch.float64).T
    z = z0 + 0.3 * SURROGATE[1:].sum(1, keepdim=True) * torch.eye(C)[0]
    held = kl_div(z.log_softmax(1), z0.softmax(1), reduction="batchmean").item()
    pulled = pull(twin, SURROGATE[:1]).item()
    assert losses == pytest.approx([0.6 * pulled, 0.6 * pulled + 5.0 * held], rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_batches_without_a_pseudo_forget_image_are_skipped(seed):
    student, twin = subject(), subject()
    one_epoch(batch_size=1).unlearn(student, split(Lent()), Run(seed))
    assert_weights(student, stepped(pull(twin, SURROGATE[:1]), twin))  # one step, whenever it came


def test_the_share_still_taken_counts_pseudo_forget_images_only():
    x = torch.tensor([[2.0, 0.5], [1.0, 0.9], [0.1, 1.0]], dtype=torch.float64)  # taken for 0, 0, 1
    data, gone = handle(x), torch.tensor([True, False, False])
    teacher, student = outputs_by_index(subject(), data), subject()
    assert still_taken(student, data, teacher, gone) == 1.0
    student.module[1].weight.data[1] = torch.tensor([-0.3, 2.0])  # the second is now taken for 1
    assert still_taken(student, data, teacher, gone) == 0.5


def test_it_stops_after_the_epoch_in_which_no_surrogate_is_taken_for_the_class():
    run, slow = Run(), Run()
    SCARSelf(epochs=40, lr=0.1, lambda2=0.1, delta=1.0).unlearn(subject(), split(Lent()), run)
    assert run.log["left"][-1] == 0.0 and run.log["left"][:-1] == [1.0] * (len(run.log["left"]) - 1)
    assert len(run.log["left"]) < 40
    SCARSelf(epochs=4, lr=1e-9, delta=1.0).unlearn(subject(), split(Lent()), slow)
    assert slow.log["left"] == [1.0] * 4


def test_only_the_released_stopping_rule_reads_the_forget_set():
    assert SCARSelf().reads() == {"surrogate", "statistics"}
    released = one_epoch(stop="forget")
    assert released.reads() == {"surrogate", "statistics", "forget"}
    with pytest.raises(SealedError, match="forget"):
        released.unlearn(subject(), split(Lent()), Run())
    forget = handle(SURROGATE[:2])
    released.unlearn(subject(), split(Lent(), forget=forget), Run())
    assert forget.read == 2
