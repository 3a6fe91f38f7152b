"""DUCK: centres, assignment, one step of both terms worked in numpy, and when it stops."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

from unlearn.data import Counted, Resident, Split
from unlearn.errors import Mismatch
from unlearn.methods.duck import DUCK, away
from unlearn.ops.distances import class_means, cosine_distance, features_of, nearest_wrong
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

X = torch.tensor(
    [[2.0, 1.0], [1.5, -0.4], [-1.0, 2.0], [-0.5, 1.0], [1.0, -3.0], [0.3, -2.0]], dtype=torch.float64
)
Y = torch.tensor([0, 0, 1, 1, 2, 2])


def as_is(x, _rng):
    return x


def split(forget, y=Y, held=Y):
    """The first `forget` rows to forget, the others to retain, and all of them to validate, in float64."""
    whole, rows = Resident(Arrays(X, y), as_is), torch.arange(len(X))
    sets = whole.take(rows[:forget]), whole.take(rows[forget:]), Resident(Arrays(X, held), as_is)
    return Split(*(Counted(s) for s in sets), None, None)


def linear(head):
    """Features are the inputs; the head is given."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, len(head), bias=False)).double()
    net[0].weight.data = torch.eye(2).double()
    net[1].weight.data = torch.tensor(head, dtype=torch.float64)
    return Classifier(net, len(head))


def test_centres_are_class_means():
    labels, mu = class_means(X[2:], Y[2:])
    assert labels.tolist() == [1, 2]
    np.testing.assert_allclose(mu, [[-0.75, 1.5], [0.65, -2.5]], atol=1e-12)


def test_distances_are_those_of_scipy():
    mu = class_means(X, Y)[1]
    np.testing.assert_allclose(cosine_distance(X, mu), cdist(X, mu, "cosine"), atol=1e-12)


def test_each_example_goes_to_its_nearest_wrong_centre():
    rng = torch.Generator().manual_seed(0)
    v, y = torch.randn(50, 4, generator=rng), torch.randint(0, 6, (50,), generator=rng)
    labels, mu = torch.tensor([0, 2, 3, 5]), torch.randn(4, 4, generator=rng)
    d = cdist(v, mu, "cosine")
    wanted = []
    for row, own in zip(d, y.tolist(), strict=True):
        order = row.argsort()
        wanted.append(order[0] if labels[order[0]] != own else order[1])
    assert nearest_wrong(torch.tensor(d), labels, y).tolist() == wanted


def test_the_index_shift_sends_examples_of_a_removed_class_to_their_second_choice():
    labels, positions = (
        torch.tensor([0, 2]),
        torch.arange(2),
    )  # class 1 is removed; class 2 sits at position 1
    d, y = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([1, 1])
    assert nearest_wrong(d, labels, y).tolist() == [1, 0]
    assert nearest_wrong(d, positions, y).tolist() == [0, 0]


def test_an_example_without_a_wrong_class_is_refused():
    with pytest.raises(Mismatch, match="class 4 has no other class"):
        nearest_wrong(torch.zeros(1, 1), torch.tensor([4]), torch.tensor([4]))


def test_features_come_with_targets_and_ids_and_leave_the_mode_alone():
    subject = linear([[1.0, 0.0], [0.0, 1.0]])
    subject.module.train()
    v, y, index = features_of(subject, split(2).retain.batches(3))
    assert torch.equal(v, X[2:]) and torch.equal(y, Y[2:]) and index.tolist() == [2, 3, 4, 5]
    assert subject.module[1].training


def test_one_step_follows_the_gradient_worked_in_numpy():
    head = [[0.5, -0.2], [-0.3, 0.8], [0.1, -0.6]]
    lam1, lam2, t, lr = 0.7, 1.4, 2.0, 1e-3
    subject = DUCK(epochs=1, retain_batches=1, lambda1=lam1, lambda2=lam2, temperature=t, lr=lr).unlearn(
        linear(head), split(2), Run()
    )
    x, h = X.numpy(), np.array(head)
    mu = np.array([[-0.75, 1.5], [0.65, -2.5]])
    goals = mu[cdist(x[:2], mu, "cosine").argmin(1)]
    g_w, g_h = np.zeros((2, 2)), np.zeros((3, 2))
    for v, m in zip(x[:2], goals, strict=True):  # d/dv (1 - cos) = -(m / |m| - cos v / |v|) / |v|
        n = np.linalg.norm(v)
        unit = m / np.linalg.norm(m)
        slope = -(unit - (unit @ v) / n * v / n) / n
        g_w += lam1 * np.outer(slope, v) / 2
    for v, c in zip(x[2:], Y[2:].tolist(), strict=True):
        e = np.exp(h @ v / t)
        delta = lam2 * (e / e.sum() - np.eye(3)[c]) / t / 4
        g_h += np.outer(delta, v)
        g_w += np.outer(h.T @ delta, v)
    for layer, start, g in ((0, np.eye(2), g_w), (1, h, g_h)):
        wanted = start - lr * g / (np.abs(g) + 1e-8)  # the first step of Adam
        np.testing.assert_allclose(subject.module[layer].weight.detach(), wanted, rtol=0, atol=1e-12)


def test_the_pull_has_the_gradient_of_the_cosine():
    v = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    loss = away(v, torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    np.testing.assert_allclose(v.grad, [[-(1 - 0.36) / 5, 0.6 * 0.8 / 5]], atol=1e-12)


HEAD = [[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]  # answers all six examples right
WRONG = (Y + 1) % 3
STILL = DUCK(epochs=4, lr=1e-15, retain_batches=1)


def epochs(forget, y, held):
    run = Run()
    STILL.unlearn(linear(HEAD), split(forget, y, held), run)
    return run.log["forget"]


def test_a_whole_class_is_pulled_until_it_is_gone():
    assert epochs(2, Y, Y) == [1.0] * 4
    labels = torch.cat([WRONG[:2] * 0 + 2, torch.tensor([1, 1, 0, 0])])  # class 2 goes, and is answered wrong
    assert epochs(2, labels, Y) == [0.0]


def test_random_examples_are_pulled_until_they_are_below_validation():
    mislabelled = torch.cat([WRONG[:1], Y[1:]])
    assert epochs(1, mislabelled, Y) == [0.0]
    assert epochs(1, mislabelled, WRONG) == [0.0] * 4  # nothing is below a validation accuracy of 0
    assert epochs(1, Y, Y) == [1.0] * 4


@pytest.mark.parametrize(("batches", "read"), [(1, 2), (2, 4), (9, 4)])
def test_every_forget_batch_meets_so_many_retain_batches(batches, read):
    data = split(2)
    DUCK(epochs=1, batch_size=2, retain_batches=batches, centroid_batches=1).unlearn(
        linear(HEAD), data, Run()
    )
    assert data.retain.read == 2 + read


def test_the_second_phase_trains_on_both_sets_at_once():
    head, lr = torch.tensor(HEAD, dtype=torch.float64), 1e-4
    method = DUCK(epochs=1, lr=1e-15, retain_batches=1, refine_epochs=1, lambda1=0.0)
    subject = method.unlearn(linear(HEAD), split(2), Run())
    z = (X[2:] @ head.T / 2).requires_grad_()
    torch.nn.functional.cross_entropy(z, Y[2:]).backward()
    g = z.grad.T @ X[2:] / 2
    np.testing.assert_allclose(
        subject.module[1].weight.detach(), head - lr * g / (g.abs() + 1e-8), atol=1e-10
    )
