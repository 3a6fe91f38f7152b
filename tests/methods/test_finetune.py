import pytest
from one_weight import OneWeight, rows, split

from unlearn.methods.finetune import FineTune
from unlearn.runtime import Run


def test_one_step_by_hand():
    """The gradient is the mean of 1, 2, 6, which is 3, plus 0.5 times the weight: 2 - 0.1 (3 + 1)."""
    method = FineTune(lr=0.1, epochs=1, momentum=0.0, weight_decay=0.5)
    done = method.unlearn(OneWeight(2.0), split(retain=rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([1.6], abs=1e-12)


def test_momentum_by_hand():
    """With gradient 3 in two epochs the velocities are 3 and 0.5 * 3 + 3: 2 - 0.1 (3 + 4.5)."""
    method = FineTune(lr=0.1, epochs=2, momentum=0.5, weight_decay=0.0)
    done = method.unlearn(OneWeight(2.0), split(retain=rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([1.25], abs=1e-12)


def test_each_batch_is_a_step():
    """A sum over single examples does not depend on their order: 2 - 0.1 (1 + 2 + 6)."""
    method = FineTune(lr=0.1, epochs=1, momentum=0.0, weight_decay=0.0, batch_size=1)
    done = method.unlearn(OneWeight(2.0), split(retain=rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([1.1], abs=1e-12)
