import pytest
from one_weight import OneWeight, rows, split

from unlearn.data import Sealed
from unlearn.methods.random_labels import RandomLabels
from unlearn.runtime import Run


def test_two_passes_by_hand():
    """The relabelled gradient is twice 5; then that of the retain set: 1 - 0.1 * 10 - 0.1 * 3."""
    method = RandomLabels(lr=0.1, epochs=1, momentum=0.0, weight_decay=0.0)
    done = method.unlearn(OneWeight(1.0), split(rows(4.0, 6.0), rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([-0.3], abs=1e-12)


def test_momentum_carries_from_the_first_pass_into_the_second():
    """Velocities 10 and 0.5 * 10 + 3."""
    method = RandomLabels(lr=0.1, epochs=1, momentum=0.5, weight_decay=0.0)
    done = method.unlearn(OneWeight(1.0), split(rows(4.0, 6.0), rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([1 - 0.1 * (10 + 8)], abs=1e-12)


def test_forget_only_reads_no_retain_data():
    method = RandomLabels(lr=0.1, epochs=1, momentum=0.0, weight_decay=0.0, forget_only=True)
    done = method.unlearn(OneWeight(1.0), split(rows(4.0, 6.0), Sealed("retain", "random-labels")), Run())
    assert done.w == pytest.approx([0.0], abs=1e-12)
    assert method.reads() == {"forget"}
