"""SCAR: the distillation term, weights, one step of both terms, and when it stops."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import recall_score
from torch import nn
from torch.nn.functional import cosine_similarity

from unlearn.data import Counted, Gaussians, Resident, Split
from unlearn.methods.scar import SCAR, Hold, class_accuracy, rarity, trust
from unlearn.ops.distill import kl, without_classes
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

C = 3
RNG = torch.Generator().manual_seed(0)
X = torch.rand(9, 2, generator=RNG).double() + 0.2
Y = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
SURROGATE = torch.rand(6, 2, generator=RNG).double() * 4 - 1


class Lent:
    """Statistics by hand: distances with the identity for P."""

    def __init__(self, labels, mean):
        self.given = Gaussians(
            torch.tensor(labels), torch.tensor(mean).double(), torch.eye(2).expand(len(labels), 2, 2)
        )

    def gaussians(self, power=1.0):
        return self.given


def as_is(x, _rng):
    return x


def subject(head=((1.0, -0.5), (-0.3, 1.0), (0.2, 0.1))):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, C, bias=False)).double()
    net[0].weight.data = torch.eye(2).double()
    net[1].weight.data = torch.tensor(head, dtype=torch.float64)
    return Classifier(net, C)


def split(forget, lent, y=Y, held=Y):
    sets = Resident(Arrays(X, y), as_is).take(forget), Resident(Arrays(X, held), as_is)
    surrogate = Resident(Arrays(SURROGATE, torch.zeros(6).long()), as_is)
    return Split(Counted(sets[0]), None, Counted(sets[1]), Counted(surrogate), lent)


FIRST = torch.arange(3)
CLASS_0_GONE = Lent([1, 2], [[0.0, 3.0], [2.0, 0.0]])
NONE_GONE = Lent([0, 1, 2], [[1.0, 1.0], [0.0, 3.0], [2.0, 0.0]])


def test_the_divergence_is_that_of_scipy():
    a, b = torch.randn(2, 5, C, generator=torch.Generator().manual_seed(1)).double().unbind()
    wanted = [entropy(p, q) for p, q in zip(a.softmax(1).numpy(), b.softmax(1).numpy(), strict=True)]
    np.testing.assert_allclose(kl(a, b), wanted, atol=1e-12)


def test_the_logit_of_a_removed_class_becomes_the_smallest_of_the_batch():
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, -4.0, 5.0]])
    gone = torch.tensor([True, False, False])
    assert without_classes(logits, gone).tolist() == [[-4, 1, 0], [-4, -4, 5]]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_class_removal_distils_the_overwritten_teacher_on_the_other_surrogates(temperature):
    original, student = subject(), subject(((0.4, 0.4), (0.1, 1.0), (0.9, -0.2)))
    data = split(FIRST, CLASS_0_GONE)
    hold = Hold(original, data.surrogate, torch.tensor([True, False, False]), temperature)
    s = next(data.surrogate.batches(6))
    z0, z = original.outputs(s).detach().numpy(), student.outputs(s).detach().softmax(1).numpy()
    keep = z0.argmax(1) != 0
    assert 0 < keep.sum() < 6
    z0, z = z0[keep], z[keep]
    z0[:, 0] = z0.min()
    p = np.exp(z0 / temperature)  # the teacher alone has a temperature
    p /= p.sum(1, keepdims=True)
    wanted = np.mean([entropy(a, b) for a, b in zip(p, z, strict=True)])
    assert hold(student, s).item() == pytest.approx(wanted, rel=1e-6)


def test_a_batch_that_is_all_of_removed_classes_adds_nothing():
    data = split(FIRST, CLASS_0_GONE)
    hold = Hold(subject(), data.surrogate, torch.ones(C, dtype=torch.bool), 1.0)
    assert hold(subject(), next(data.surrogate.batches(6))).item() == 0


def test_rare_surrogates_weigh_as_a_sampler_would_draw_them():
    predicted = torch.tensor([0] * 8 + [1] * 4 + [2])
    losses = torch.rand(13, generator=torch.Generator().manual_seed(2)).double()
    p = torch.tensor([1 / 8] * 8 + [1 / 4] * 4 + [1 / 5]).double()  # one image counts as five
    expected = (p / p.sum() * losses).sum()
    assert (rarity(predicted, C)[predicted] * losses).mean().item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_random_forgetting_weighs_the_divergence_by_rarity():
    original, student = subject(), subject(((0.4, 0.4), (0.1, 1.0), (0.9, -0.2)))
    data = split(FIRST, NONE_GONE)
    s = next(data.surrogate.batches(6))
    z0 = original.outputs(s)
    weight = rarity(z0.argmax(1), C)[z0.argmax(1)]
    wanted = (weight * kl(z0, student.outputs(s))).mean()
    assert Hold(original, data.surrogate, None, 1.0)(student, s).item() == pytest.approx(
        wanted.item(), rel=1e-6
    )


def test_classes_are_trusted_by_their_accuracy_down_to_a_threshold():
    assert trust(torch.tensor([0.79, 0.8, 1.0, 0.0]), 0.8).tolist() == pytest.approx([0, 0.8, 1, 0])


def test_class_accuracy_is_the_recall_of_sklearn():
    student, data = subject(), split(torch.arange(9), NONE_GONE)
    answers = student.outputs(next(data.forget.batches(9))).argmax(1)
    rate, rates = class_accuracy(student, data.forget)
    assert rate == pytest.approx((answers == Y).double().mean().item())
    np.testing.assert_allclose(rates, recall_score(Y, answers, average=None), atol=1e-6)


def test_one_step_goes_down_both_terms():
    lr, lam1, lam2 = 1e-3, 0.6, 5.0
    student, data = subject(), split(FIRST, CLASS_0_GONE)
    method = SCAR(epochs=1, surrogate_batches=1, check_every=99, lr=lr, lambda1=lam1, lambda2=lam2, delta=1.0)
    method.unlearn(student, data, Run())
    twin = subject()
    v = twin.features(next(data.forget.batches(3)))
    mu = torch.tensor([[0.0, 3.0], [2.0, 0.0]]).double()
    cos = torch.stack([cosine_similarity(v, m[None]) for m in mu], 1)
    d = 2 * (1 - cos)  # |u - m|² of unit vectors: P is the identity
    hold = Hold(subject(), data.surrogate, torch.tensor([True, False, False]), 1.0)
    loss = lam1 * d.min(1).values.mean() + lam2 * hold(twin, next(data.surrogate.batches(6)))
    for p, g, q in zip(twin.module.parameters(), torch.autograd.grad(loss, list(twin.module.parameters())),
                       student.module.parameters(), strict=True):  # fmt: skip
        wanted = p.detach() - lr * g / (g.abs() + 1e-8)  # the first step of Adam
        np.testing.assert_allclose(q.detach(), wanted, rtol=0, atol=1e-8)


def accuracies(forget, lent, y, held, **knobs):
    run = Run()
    method = SCAR(lr=1e-15, epochs=4, surrogate_batches=1, check_every=1, **knobs)
    method.unlearn(subject(), split(forget, lent, y, held), run)
    return run.log["forget"]


ANSWERS = (X @ torch.tensor([[1.0, -0.5], [-0.3, 1.0], [0.2, 0.1]]).double().T).argmax(1)
OTHERS = (ANSWERS + 1) % C


def test_it_stops_in_the_third_epoch_at_the_earliest():
    gone = OTHERS[:1]  # the only forget example, and its class, is answered wrong from the start
    lent = Lent([c for c in range(C) if c != gone.item()], [[0.0, 3.0], [2.0, 0.0]])
    y = torch.cat([gone, ANSWERS[1:]])
    assert accuracies(FIRST[:1], lent, y, Y) == [0.0] * 3
    assert accuracies(FIRST[:1], lent, y, Y, min_epochs=0) == [0.0]


def test_random_forgetting_stops_below_validation_less_a_margin():
    y = torch.cat([OTHERS[:1], ANSWERS[1:]])  # two of three forget examples are answered right
    assert accuracies(FIRST, NONE_GONE, y, ANSWERS, min_epochs=0) == [pytest.approx(2 / 3)]
    assert accuracies(FIRST, NONE_GONE, y, ANSWERS, min_epochs=0, margin=0.5) == [pytest.approx(2 / 3)] * 4
