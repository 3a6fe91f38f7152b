"""A subject whose updates can be worked out by hand: its loss is w · x, so its gradient is x."""

import torch
from torch import nn

from unlearn.data import Resident, Split
from unlearn.sources import Arrays


class OneWeight:
    """Loss w · x with w of shape (D,); the relabelled loss is twice that."""

    def __init__(self, *w):
        self.module = nn.Linear(len(w), 1, bias=False)
        self.module.weight = nn.Parameter(torch.tensor([w], dtype=torch.float64))

    @property
    def w(self):
        return self.module.weight[0].tolist()

    def clone(self):
        return OneWeight(*self.w)

    def loss(self, batch, rng=None):
        return self.module(batch.x)[:, 0]

    def relabeled_loss(self, batch, rng):
        return 2 * self.loss(batch)


def rows(*x):
    """A set of rows in float64, with targets that mean nothing."""
    x = torch.tensor(x, dtype=torch.float64)
    x = x[:, None] if x.ndim == 1 else x
    return Resident(Arrays(x, torch.zeros(len(x), dtype=torch.long)), keep)


def keep(x, rng):
    """The transform that changes nothing, not even the type."""
    return x


def split(forget=None, retain=None):
    """A split of these two sets."""
    return Split(forget, retain, None, None, None)
