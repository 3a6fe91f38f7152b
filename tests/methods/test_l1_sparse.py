import pytest
import torch
from one_weight import OneWeight, rows, split

from unlearn.methods.l1_sparse import L1Sparse, l1_norm
from unlearn.runtime import Run


def test_the_penalty_decays_linearly_over_the_epochs():
    """Weights 5 and -5, no data gradient, γ = 1 over 4 epochs: each moves 0.1 (1 + 3/4 + 1/2 + 1/4)."""
    method = L1Sparse(gamma=1.0, lr=0.1, epochs=4, momentum=0.0, weight_decay=0.0)
    done = method.unlearn(OneWeight(5.0, -5.0), split(retain=rows((0.0, 0.0))), Run())
    assert done.w == pytest.approx([4.75, -4.75], abs=1e-12)


def test_loss_and_penalty_by_hand():
    """2 - 0.1 (3 + 0.5 sign(2))."""
    method = L1Sparse(gamma=0.5, lr=0.1, epochs=1, momentum=0.0, weight_decay=0.0)
    done = method.unlearn(OneWeight(2.0), split(retain=rows(1.0, 2.0, 6.0)), Run())
    assert done.w == pytest.approx([1.65], abs=1e-12)


def test_the_norm_equals_that_of_torch():
    params = [torch.nn.Parameter(torch.randn(3, 4).double()), torch.nn.Parameter(torch.randn(5).double())]
    flat = torch.cat([p.detach().flatten() for p in params])
    assert l1_norm(params).item() == pytest.approx(torch.linalg.vector_norm(flat, 1).item(), rel=1e-14)
