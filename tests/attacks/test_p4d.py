"""P4D against nearest neighbours of scikit-learn and gradients taken by hand."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from tiny_case import IDS, case, ids

from unlearn.attack import prompts
from unlearn.attacks.p4d import P4D, point, projected, read, spoken
from unlearn.ops.prompts import spaced
from unlearn.testing.tiny import same, tensors

SMALL = {"iterations": 4, "tries": 2, "tokens": 3}


def test_the_projection_is_the_nearest_neighbour_by_cosine():
    rng = torch.Generator().manual_seed(0)
    table, p = torch.randn(50, 8, generator=rng), 5 * torch.randn(40, 8, generator=rng)
    table[:10] *= 30
    found = NearestNeighbors(n_neighbors=1, metric="cosine").fit(table.numpy()).kneighbors(p.numpy())[1]
    assert projected(p, table).tolist() == found[:, 0].tolist()


def test_the_model_reads_tokens_and_what_would_move_them_moves_p():
    rng = torch.Generator().manual_seed(1)
    table, p = torch.randn(20, 4, generator=rng), torch.randn(1, 3, 4, generator=rng).requires_grad_()
    said = torch.tensor([[3, 9, 1]])
    embedded = read(p, said, table)
    assert torch.equal(embedded, table[said])
    weights = torch.randn(embedded.shape, generator=rng)
    (embedded * weights).sum().backward()
    assert torch.equal(p.grad, weights)


def test_only_free_tokens_are_replaced():
    table = torch.eye(8)
    free = torch.tensor([[False, True, False, True]])
    assert spoken(
        table[torch.tensor([[7, 6, 5, 4]])], torch.tensor([[0, 1, 2, 3]]), free, table
    ).tolist() == [[0, 6, 2, 4]]


@pytest.mark.parametrize(
    ("words", "every", "expected"),
    [
        ((5, 6, 7), 3, [0, -1, 5, 6, 7, -1, 1, 1]),
        ((5, 6), 3, [0, -1, 5, 6, 1, 1, 1, 1]),
        ((5, 6, 7, 8, 9, 4), 3, [0, -1, 5, 6, 7, -1, 8, 1]),
        ((5, 6), 1, [0, -1, 5, -1, 6, -1, 1, 1]),
        ((), 2, [0, -1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_form_k_puts_a_free_token_first_and_after_every_few(words, every, expected):
    said, free = spaced(torch.tensor([ids(*words)]), every)
    assert said.masked_fill(free, -1).tolist() == [expected]


def test_form_n_frees_as_many_tokens_as_fit_and_keeps_no_word():
    empty = torch.tensor([0, 1, 9, 9, 9, 9, 9, 9])  # padding that is not the end of text
    said, free = P4D(form="n", tokens=3).opened(IDS, empty)
    assert said.masked_fill(free, -1).tolist() == [[0, -1, -1, -1, 1, 9, 9, 9]] * 3
    said, free = P4D(form="n", tokens=99).opened(IDS, empty)
    assert said.masked_fill(free, -1).tolist() == [[0, -1, -1, -1, -1, -1, 1, 9]] * 3


def test_the_goal_is_what_the_original_predicts_for_the_attacked_prompt():
    one = case()
    with torch.no_grad():
        for q in one.clean.denoiser.parameters():
            q.mul_(1.1)
    x, told = one.memories(), one.clean.encode(prompts(IDS))
    z, t, goal = point(one, x, told)
    with torch.no_grad():
        assert torch.equal(goal, one.clean.predict(z, t, told))
        assert not torch.allclose(goal, one.victim.predict(z, t, told))
    assert not goal.requires_grad


def test_where_latents_are_not_shared_the_noise_is_the_goal():
    one = case()
    x, told = one.memories(), one.clean.encode(prompts(IDS))
    one.victim.vae = torch.nn.Identity()
    z, t, goal = point(one, x, told)
    a = one.victim.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    assert torch.allclose(a.sqrt() * x + (1 - a).sqrt() * goal, z, rtol=0, atol=1e-6)


def attempted(one, **fields):
    return [(r.tolist(), c.clone()) for r, c in P4D(**{**SMALL, **fields}).attempts(one)]


@pytest.mark.parametrize("form", ["k", "n"])
def test_prompts_that_have_succeeded_are_left_out_and_a_case_that_is_over_draws_nothing(form):
    one, tried = case(), []
    before = tensors(one.victim), tensors(one.clean)
    for rows, cond in P4D(form=form, **SMALL).attempts(one):
        tried.append((rows.tolist(), len(cond)))
        one.hit[rows[0]] = True
    assert tried == [([0, 1, 2], 3), ([1, 2], 2)]
    assert same(tensors(one.victim), before[0]) and same(tensors(one.clean), before[1])
    over = case()
    over.hit[:] = True
    assert not attempted(over, form=form)


def test_a_seed_decides_everything():
    one, two, other = (attempted(case(seed=s))[-1][1] for s in (0, 0, 1))
    assert one.equal(two) and not one.equal(other)
