"""Class activation maps by hand on a network of one convolution, and what an overlap is."""

import pytest
import torch
from torch import nn

from unlearn.data import Batch, Resident
from unlearn.errors import Mismatch
from unlearn.evals.cam import Cam
from unlearn.metric import Evidence
from unlearn.ops.cam import grad_cam, hottest, overlap
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.testing.metric_checks import evidence

WEIGHT = torch.tensor([[1.0, -1.0], [2.0, 3.0], [0.0, 5.0]])  # of 3 classes on 2 channels


def network():
    """Channel 0 is the image, channel 1 its negative; both pass a ReLU, the mean over places, a linear head."""
    conv, head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        head.weight.copy_(WEIGHT)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def batch(y):
    x = torch.tensor([[[1.0, -2.0], [3.0, 0.0]]]).repeat(len(y), 1, 1, 1)
    return Batch(x, torch.tensor(y), torch.arange(len(y)))


@pytest.mark.parametrize("frozen", [False, True])
def test_grad_cam_by_hand_is_the_class_activation_map(frozen):
    """Maps (1, 0 / 3, 0) and (0, 2 / 0, 0) times the head's weights, over the four places of the mean."""
    net = network()
    net.requires_grad_(not frozen)
    found = grad_cam(Classifier(net, 3), batch([0, 1, 2]))
    cam = torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[2.0, 6.0], [6.0, 0.0]], [[0.0, 10.0], [0.0, 0.0]]])
    torch.testing.assert_close(found, cam / 4)
    assert all(p.grad is None for p in net.parameters())


def test_a_general_head_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh())
    head = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3))
    net, x = nn.Sequential(body, head).double(), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    y, step = torch.tensor([2, 0]), 1e-5
    with torch.no_grad():
        a = body(x)
        slope = torch.zeros_like(a)
        for k in range(a[0].numel()):
            move = torch.zeros(a[0].numel(), dtype=torch.float64)
            move[k] = step
            sides = [head(a + s * move.view(a[0].shape)).gather(1, y[:, None])[:, 0] for s in (1, -1)]
            slope.flatten(1)[:, k] = (sides[0] - sides[1]) / (2 * step)
    expected = (slope.mean((2, 3))[:, :, None, None] * a).sum(1)
    found = grad_cam(Classifier(net, 3), Batch(x, y, torch.arange(2)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_hottest_pixels_by_hand():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[5.0, 5.0], [1.0, 1.0]]])
    assert hottest(maps, (2, 2), 0.25).tolist() == [[False, False, False, True], [True, True, False, False]]
    assert hottest(maps, (2, 2), 0.01).sum(1).tolist() == [1, 2], "at least one, and all that are equal"
    wide = hottest(maps[:1], (4, 4), 0.25).view(4, 4)  # 3, 2.75, 2.5 and twice 2.25
    assert wide.nonzero().tolist() == [[2, 2], [2, 3], [3, 1], [3, 2], [3, 3]]


def test_overlaps_by_hand():
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]).bool()
    found = overlap(a, b)
    assert found[:2].tolist() == [1 / 3, 1.0] and found[2].isnan(), "an empty map says nothing"


def test_rows_have_no_maps():
    rows = Batch(torch.randn(2, 4), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(Mismatch, match="Sequential has no layer that gives maps"):
        grad_cam(Classifier(nn.Sequential(nn.Linear(4, 3)), 3), rows)
    [refused] = Cam().score_of(evidence("mlp"))
    assert refused.value is None and "no layer that gives maps" in refused.note


def test_the_scores_are_means_over_images():
    """One model calls the dark strip hot too: of the first image half of what it sees is shared, of the second all."""
    strips = torch.zeros(2, 1, 10, 10)
    strips[:, 0, :2], strips[0, 0, 5:7] = 1, -1
    lent = Batch(strips, torch.tensor([0, 0]), torch.arange(2))
    handle = Resident(Arrays(lent.x, lent.y))
    subjects = {who: Classifier(network(), 3) for who in ("original", "unlearned", "oracle")}
    with torch.no_grad():
        subjects["unlearned"].module[4].weight[0] = 1
    found = {s.name: s for s in Cam().score_of(Evidence(subjects, {"forget": handle}))}
    assert found["cam/forget"].original == found["cam/forget-original"].reference == 1
    for score in found.values():
        assert score.value == 0.75 and score.low < 0.75 < score.high and "descriptive" in score.note
    assert not any(s.headline for s in found.values())
