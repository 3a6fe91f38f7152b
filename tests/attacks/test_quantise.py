"""Rounding by hand, and what of a model is rounded."""

import pytest
import torch
from tiny_case import IDS, case

from unlearn.attacks.quantise import Quantise
from unlearn.ops.rounding import rounded


def test_values_by_hand():
    w = torch.tensor(
        [[7.0, -3.4, 0.49, 0.51], [-0.7, 0.35, 0.04, 0.06], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64
    )
    by_hand = [[7.0, -3.0, 0.0, 1.0], [-0.7, 0.4, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]]
    w[1, 1] += 1e-9  # ties go to the even step
    assert torch.allclose(rounded(w, 4), torch.tensor(by_hand, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 2)])
def test_each_channel_has_a_grid_of_its_own(bits, shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w[2] *= 1000
    found, q = rounded(w, bits), 2 ** (bits - 1) - 1
    for before, after in zip(w, found, strict=True):
        step = before.abs().max() / q
        assert (after - before).abs().max() <= step / 2 * (1 + 1e-9)
        assert after.abs().max() == pytest.approx(float(before.abs().max()))
        assert len((after / step).round().unique()) <= 2 * q + 1
        assert torch.allclose(after / step, (after / step).round(), atol=1e-9)
    assert torch.allclose(rounded(found, bits), found), "rounding again changes nothing"


def test_matrices_kernels_and_embeddings_are_rounded_and_the_rest_is_not():
    one = case()
    before = {n: p.clone() for n, p in one.victim.module.named_parameters()}
    [(rows, cond)] = Quantise(bits=3).attempts(one)
    assert rows.tolist() == [0, 1, 2]
    assert cond.equal(one.asked(IDS))
    kinds = set()
    for n, p in one.victim.module.named_parameters():
        kinds.add(p.dim())
        assert p.equal(rounded(before[n], 3) if p.dim() > 1 else before[n]), n
    assert kinds == {1, 2, 4}
    assert all(p.equal(q) for p, q in zip(one.clean.module.parameters(), before.values(), strict=True))


def test_a_case_that_is_over_draws_nothing():
    over = case()
    over.hit[:] = True
    assert not list(Quantise().attempts(over))
