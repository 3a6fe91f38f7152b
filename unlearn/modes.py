"""Train and evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def mode(module: nn.Module, *, train: bool) -> Iterator[None]:
    """Puts every submodule into train or evaluation mode, and back as it was afterwards.

    In train mode batch norm uses batch statistics and moves its running ones.
    """
    before = [(m, m.training) for m in module.modules()]
    module.train(train)
    try:
        yield
    finally:
        for m, flag in before:
            m.training = flag
