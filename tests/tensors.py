"""What tests of unlearn/ops share: sets in memory, one vector of many tensors, counted hooks, a stray weight."""

import torch
from torch import nn

from unlearn.data import Resident
from unlearn.sources import Arrays


def handle(x, y=None):
    y = torch.zeros(len(x), dtype=torch.long) if y is None else y
    return Resident(Arrays(x, y), lambda x, rng: x)


def vector(tensors):
    return torch.cat([t.flatten() for t in tensors])


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class Own(nn.Module):
    """Owns a weight that is in no layer."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.linear(x) * self.scale
