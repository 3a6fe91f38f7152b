"""Boundary shrink: the attack in units of the range of pixels, the label that it finds, and the steps."""

import numpy as np
import pytest
import torch
from one_weight import split
from small_net import classifier, images, state
from torch import nn

from unlearn.data import Resident
from unlearn.errors import Mismatch
from unlearn.methods.boundary_shrink import BoundaryShrink, attacked, likeliest_wrong, value_range
from unlearn.runtime import Run
from unlearn.sources import Arrays, Pixels
from unlearn.subjects.classifier import Classifier

WEIGHT = [[2.0, 0.0], [1.0, 1.5], [-1.0, 0.5]]
X = [[0.4, 0.2], [0.0, -1.0], [1.0, 0.0]]
Y = [0, 1, 0]
PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def subject(weight=WEIGHT):
    net = nn.Linear(2, 3, bias=False).double()
    net.weight.data = torch.tensor(weight, dtype=torch.float64)
    return Classifier(net, 3)


def rows(x=X, y=Y):
    return Resident(Arrays(torch.tensor(x, dtype=torch.float64), torch.tensor(y)), lambda x, rng: x)


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def adversarial(epsilon, keep_failed, x=X, y=Y):
    """The labels of a linear model by loops: its gradient to x is Wᵀ (p − onehot)."""
    w, x = np.array(WEIGHT), np.array(x)
    low, high = x.min(0), x.max(0)
    found = []
    for point, label in zip(x, y, strict=True):
        gradient = w.T @ (softmax(w @ point) - np.eye(3)[label])
        moved = np.clip(point + epsilon * (high - low) * np.sign(gradient), low, high)
        order = [int(c) for c in np.argsort(-(w @ moved)) if keep_failed or c != label]
        found.append(order[0])
    return found


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize("keep_failed", [False, True])
def test_labels_and_one_step_of_a_linear_model_by_loops(epsilon, keep_failed):
    lr, labels = 0.1, adversarial(epsilon, keep_failed)
    method = BoundaryShrink(lr=lr, epochs=1, epsilon=epsilon, keep_failed=keep_failed, **PLAIN)
    done = method.unlearn(subject(), split(forget=rows()), Run())
    w = np.array(WEIGHT)
    gradient = np.mean(
        [np.outer(softmax(w @ p) - np.eye(3)[c], p) for p, c in zip(np.array(X), labels, strict=True)], axis=0
    )
    np.testing.assert_allclose(done.module.weight.detach(), w - lr * gradient, atol=1e-12)


def test_the_cases_above_hold_a_success_and_a_failure():
    assert adversarial(0.05, True)[2] == Y[2]  # too short a step: the released code keeps the true label
    assert adversarial(0.3, True)[0] != Y[0]
    assert all(a != b for a, b in zip(adversarial(0.05, False), Y, strict=True))


def test_labels_are_those_of_the_original_however_the_model_moves():
    """Ten epochs lead to labels found once: the same as ten steps of plain descent on them."""
    labels = torch.tensor(adversarial(0.1, False))
    done = BoundaryShrink(lr=0.5, epochs=10, **PLAIN).unlearn(subject(), split(forget=rows()), Run())
    w, x = subject().module.weight.detach(), torch.tensor(X, dtype=torch.float64)
    for _ in range(10):
        p = (x @ w.T).softmax(1) - torch.eye(3, dtype=torch.float64)[labels]
        w = w - 0.5 * p.T @ x / len(x)
    torch.testing.assert_close(done.module.weight.detach(), w, atol=1e-12, rtol=0)
    assert ((x @ w.T).argmax(1) == labels).all()


def test_the_attack_in_pixels_is_the_one_in_normalised_units():
    """x' = clip(x + 0.08 sign g) between 0 and 1, in steps of 1/255, worked out before normalising."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 2, 3, 3)).astype(np.uint8)
    pixels[0, :, 0, 0], pixels[1, :, 0, 0] = 0, 255
    gradient = rng.normal(size=pixels.shape)
    wanted = np.round(np.clip(pixels / 255 + 0.08 * np.sign(gradient), 0, 1) * 255) / 255
    mean, std = (0.3, 0.6), (0.25, 0.5)
    forget = Resident(Arrays(torch.tensor(pixels), torch.zeros(4).long()), Pixels(mean, std))
    low, high = value_range(forget.batches(3))
    x = next(forget.batches(4)).x
    found = attacked(x, torch.tensor(gradient), low, high, 0.08, rounding=True)
    back = found * torch.tensor(std).view(1, 2, 1, 1) + torch.tensor(mean).view(1, 2, 1, 1)
    np.testing.assert_allclose(back, wanted, atol=1e-6)


def test_a_channel_without_a_range_stays_as_it_is():
    x = torch.tensor([[2.0, 0.0], [2.0, 1.0]])
    low, high = x.amin(0, keepdim=True), x.amax(0, keepdim=True)
    moved = attacked(x, torch.ones(2, 2), low, high, 0.41, rounding=True)
    assert moved[:, 0].tolist() == [2.0, 2.0]
    assert moved[:, 1].tolist() == pytest.approx([105 / 255, 1.0])  # 104.55 levels


def test_the_likeliest_wrong_class_is_the_second_where_the_first_is_right():
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 4
    wanted = [
        max((c for c in range(4) if c != label), key=lambda c: row[c])
        for row, label in zip(z, y, strict=True)
    ]
    assert likeliest_wrong(z, y).tolist() == wanted


@pytest.mark.parametrize("batch_stats", [True, False])
def test_batch_norm_follows_forget_batches_only_where_asked(batch_stats):
    before = state(classifier().module)
    done = BoundaryShrink(epochs=1, batch_stats=batch_stats).unlearn(
        classifier(), split(forget=images(12)), Run()
    )
    after = done.module.state_dict()
    moved = [not torch.equal(after[n], before[n]) for n in before if n.endswith("running_mean")]
    assert moved == [batch_stats] * 2


def test_inputs_without_a_gradient_are_refused_in_one_line():
    tokens = Resident(Arrays(torch.arange(6).view(3, 2), torch.tensor(Y)), lambda x, rng: x)
    with pytest.raises(Mismatch, match=r"inputs of type torch\.int64 have none; use boundary-expand"):
        BoundaryShrink().unlearn(subject(), split(forget=tokens), Run())


def test_the_published_setting_has_the_released_quirks():
    method = BoundaryShrink.preset("paper")
    assert method.keep_failed and method.rounding and method.batch_stats
    assert (method.lr, method.epochs, method.epsilon) == (1e-5, 10, 0.1)
