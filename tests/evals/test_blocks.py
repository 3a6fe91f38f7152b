"""Which blocks a network is seen in, on networks whose stages are known."""

import torch
from torch import nn

from unlearn.networks import resnet8, resnet18
from unlearn.ops.hooks import blocks, pooled


class Listed(nn.Module):
    """Layers in a list, used from the last to the first, behind a wrapper."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"steps": nn.ModuleList(nn.Linear(4, 4) for _ in range(3))})
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)

    def forward(self, x):
        for layer in reversed(self.inner["steps"]):
            x = layer(x)
        return self.head(x)


def test_stages_of_residual_networks():
    stages = ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]
    assert list(blocks(resnet8(), torch.randn(2, 1, 8, 8))) == stages
    assert list(blocks(resnet18(), torch.randn(2, 3, 8, 8))) == [*stages[:-1], "layer4", "linear"]


def test_the_largest_part_is_divided_until_there_are_enough():
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 2))
    net, x = nn.Sequential(convolutions, head), torch.randn(2, 1, 8, 8)
    assert list(blocks(net, x, 1)) == [""]
    assert list(blocks(net, x, 2)) == ["0", "1"]
    assert list(blocks(net, x, 3)) == ["0", "1.1", "1.3"]
    assert list(blocks(net, x, 9)) == ["0.0", "0.2", "1.1", "1.3"]


def test_lists_are_divided_and_parts_come_in_the_order_of_use():
    names = ["inner.steps.2", "inner.steps.1", "inner.steps.0", "head"]
    assert list(blocks(Listed(), torch.randn(2, 4))) == names


def test_outputs_become_one_vector_for_each_example():
    images, tokens = torch.arange(12.0).view(1, 3, 2, 2), torch.arange(6.0).view(1, 3, 2)
    assert pooled(images).tolist() == [[1.5, 5.5, 9.5]]
    assert pooled((tokens, "cache")).tolist() == [[2.0, 3.0]]
    assert pooled(tokens[:, 0]).tolist() == [[0.0, 1.0]]
    assert pooled({"logits": tokens}) is None and pooled(torch.tensor([1.0])) is None
