"""The pieces of UnlearnDiffAtk against scipy, and its steps against a plain loop over single prompts."""

import pytest
import torch
from scipy.optimize import brentq
from tiny_case import IDS, case

from unlearn.attacks.unlearn_diff_atk import (
    UnlearnDiffAtk,
    denoising_loss,
    drawn_token,
    on_simplex,
    spread_times,
    with_prefix,
)
from unlearn.errors import BadValue
from unlearn.ops.prompts import prefixed
from unlearn.testing.tiny import same, tensors

SMALL = {"tokens": 2, "times": 3, "iterations": 2}


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 50.0])
def test_the_projection_has_the_threshold_that_a_root_finder_has(scale):
    x = scale * torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, got in zip(x, on_simplex(x), strict=True):
        tau = brentq(
            lambda tau, row=row: float((row - tau).clamp_min(0).sum()) - 1,
            float(row.min()) - 1,
            float(row.max()),
            xtol=1e-15,
        )
        assert torch.allclose(got, (row - tau).clamp_min(0), rtol=0, atol=1e-12)
        assert float(got.sum()) == pytest.approx(1, abs=1e-12) and float(got.min()) >= 0


def test_distributions_are_their_own_projection():
    x = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(on_simplex(x), x, rtol=0, atol=1e-15)


def test_tokens_are_drawn_by_their_probability_and_the_gradient_passes_as_it_is():
    pi = torch.tensor([[[0.1, 0.0, 0.9]]]).repeat(1, 4000, 1).requires_grad_()
    u = drawn_token(pi, torch.Generator().manual_seed(0))
    assert set(u.detach().unique().tolist()) == {0.0, 1.0} and bool((u.sum(2) == 1).all())
    share = u.detach().mean(1)[0]
    assert share[1] == 0 and abs(float(share[2]) - 0.9) < 5 * (0.09 / 4000) ** 0.5
    weights = torch.randn(u.shape, generator=torch.Generator().manual_seed(1))
    (u * weights).sum().backward()
    assert torch.equal(pi.grad, weights)


def certain(tokens):
    """Distributions (N, K, V) that leave no choice."""
    return torch.nn.functional.one_hot(tokens, 20).double()


def test_the_loss_is_that_of_the_prompts_as_ids():
    one, tokens = case(), torch.tensor([[7, 8], [9, 3], [4, 4]])
    ids, x, t = prefixed(IDS, 2), one.memories(), torch.tensor(300)
    got = denoising_loss(one, x, t, ids, certain(tokens))
    rng = torch.Generator().manual_seed(0)
    e = torch.randn(x.shape, generator=rng).double()
    a = one.victim.scheduler.alphas_cumprod.double()[300]
    z = a.sqrt() * x + (1 - a).sqrt() * e
    with torch.no_grad():
        out = one.victim.predict(z, t.expand(3), one.asked(with_prefix(ids, tokens)))
    assert float(got) == pytest.approx(float((out - e).square().mean((1, 2, 3)).sum()), rel=1e-6)


def test_the_gradient_of_a_token_is_its_embedding_times_that_of_the_position():
    one, tokens = case(), torch.tensor([[7, 8], [9, 3], [4, 4]])
    ids, x, t = prefixed(IDS, 2), one.memories(), torch.tensor(300)
    pi = certain(tokens).requires_grad_()
    denoising_loss(one, x, t, ids, pi).backward()
    two = case()
    two.memories()
    said, table = with_prefix(ids, tokens), two.victim.embeddings().detach()
    embedded = table[said].requires_grad_()
    z, e = two.victim.noised(x, t.expand(3), torch.randn(x.shape, generator=two.run.rng).double())
    out = two.victim.predict(z, t.expand(3), two.victim.encode_embedded(embedded, said))
    (out - e).square().mean((1, 2, 3)).sum().backward()
    expected = embedded.grad[:, 1:3] @ table.T
    assert expected.abs().max() > 0
    assert torch.allclose(pi.grad, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


def test_times_are_in_the_middle_of_equal_shares():
    """Of 4,096 draws a quantile has a standard error of at most 8 in 1,000 times; five of them are allowed."""
    found = spread_times(case(), 5)
    assert (found - torch.tensor([100, 300, 500, 700, 900])).abs().max() <= 40


def attempted(one, **fields):
    return [(r.tolist(), c.clone()) for r, c in UnlearnDiffAtk(**{**SMALL, **fields}).attempts(one)]


def test_prompts_that_have_succeeded_are_left_out_and_a_case_that_is_over_draws_nothing():
    one, tried = case(), []
    for rows, cond in UnlearnDiffAtk(**SMALL).attempts(one):
        tried.append((rows.tolist(), len(cond)))
        one.hit[rows[0]] = True
    assert tried == [([0, 1, 2], 3), ([1, 2], 2), ([2], 1)]
    over = case()
    over.hit[:] = True
    assert not attempted(over)


def test_the_prompt_stands_behind_the_prefix_and_nothing_else_changes(monkeypatch):
    one, said = case(), []
    before = tensors(one.victim)
    monkeypatch.setattr(type(one), "asked", lambda self, ids: said.append(ids) or ids)
    attempted(one)
    assert len(said) == 3 and all(
        s[:, 0].eq(0).all() and s[:, 3:].equal(prefixed(IDS, 2)[:, 3:]) for s in said
    )
    assert same(tensors(one.victim), before)


def test_a_seed_decides_everything():
    one, two, other = (attempted(case(seed=s), lr=0.1)[-1][1] for s in (0, 0, 1))
    assert one.equal(two) and not one.equal(other)


def test_a_prefix_that_leaves_no_prompt_is_refused():
    with pytest.raises(BadValue, match=r"6 tokens before prompts of 8 leave no room .* take at most 5"):
        attempted(case(), tokens=6)
