"""Textual inversion against plain gradient descent on a row of the embedding table."""

import copy

import pytest
import torch
from tiny_case import IDS, case, draws, loss

from unlearn.attacks.inversion import Inversion, spoken
from unlearn.data import Batch
from unlearn.errors import Mismatch
from unlearn.ops.prompts import word_of
from unlearn.subjects.text_to_image import TextToImage
from unlearn.testing.tiny import same, tensors

WORD = 2


def learned(case, **fields):
    """Conditionings of every prompt, at each time that they are drawn."""
    small = {"images": 4, "iterations": 4, "tries": 2, "batch_size": 3, "lr": 0.05}
    return [(rows.tolist(), cond.clone()) for rows, cond in Inversion(**{**small, **fields}).attempts(case)]


def reference(case, steps, size, lr, seen=TextToImage.predict):
    """The same by training row `WORD` of a copy's embedding table, prompts going in as ids; its text states."""
    model = copy.deepcopy(case.victim)
    table = model.text.embeddings.token_embedding.weight.requires_grad_()
    opt = torch.optim.Adam([table], lr)
    for _, (y, t, z, e) in zip(range(steps), draws(case, size), strict=False):
        out = seen(model, z, t, model.encode(Batch(z, y, t)))
        opt.zero_grad()
        (out - e).square().mean().backward()
        table.grad[torch.arange(len(table)) != WORD] = 0
        opt.step()
    with torch.no_grad():
        return model.encode(Batch(IDS[:, :0], IDS, IDS[:, 0]))


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_word_is_what_training_its_row_alone_would_give(steps):
    found = learned(case(), iterations=steps, tries=1)
    assert [rows for rows, _ in found] == [[0, 1, 2]]
    assert torch.allclose(found[0][1], reference(case(), steps, 3, 0.05), rtol=1e-9, atol=1e-10)


def test_prompts_are_drawn_after_equal_shares_of_the_steps():
    found = learned(case(), iterations=6, tries=3)
    for k, (_, cond) in enumerate(found):
        assert torch.allclose(cond, reference(case(), 2 * (k + 1), 3, 0.05), rtol=1e-9, atol=1e-10)


def test_a_guided_prediction_is_learnt_from_where_it_is_asked_for():
    def guided(model, z, t, cond):
        free = model.predict(z, t, model.encode(Batch(z, model.empty.expand(len(z), -1), t)))
        return free + model.guidance * (model.predict(z, t, cond) - free)

    ((_, found),) = learned(case(), iterations=3, tries=1, prediction="guided")
    assert torch.allclose(found, reference(case(), 3, 3, 0.05, guided), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(found, reference(case(), 3, 3, 0.05), rtol=1e-3)
    assert "of guided predictions" in Inversion(prediction="guided").budget()


def test_nothing_but_the_word_changes():
    one = case()
    before = tensors(one.victim)
    learned(one)
    assert same(tensors(one.victim), before)
    embedded = spoken(one, IDS, word_of(IDS, one.others), torch.full((16,), 7.0, dtype=torch.float64))
    table = one.victim.embeddings()
    for prompt, row in zip(IDS.tolist(), embedded, strict=True):
        for token, vector in zip(prompt, row, strict=True):
            assert vector.equal(torch.full_like(vector, 7.0) if token == WORD else table[token])


def test_the_word_lowers_the_loss_on_images_of_the_concept():
    one = case(images=6)
    steps = {"images": 6, "iterations": 60, "tries": 1, "batch_size": 8}
    [(_, cond)] = Inversion(**steps).attempts(one)
    after = loss(one.victim, one, lambda y: cond[(y[:, None] == IDS).all(2).int().argmax(1)])
    assert after < loss(one.victim, one) - 1e-3


def test_prompts_that_have_succeeded_are_left_out_and_a_case_that_is_over_draws_nothing():
    one = case()
    tried = []
    for rows, cond in Inversion(images=4, iterations=4, tries=2, batch_size=3).attempts(one):
        tried.append((rows.tolist(), len(cond)))
        one.hit[rows[0]] = True
    assert tried == [([0, 1, 2], 3), ([1, 2], 2)]
    over = case()
    over.hit[:] = True
    assert not learned(over)


def test_a_seed_decides_everything():
    one, two, other = (learned(case(seed=s))[-1][1] for s in (0, 0, 1))
    assert one.equal(two)
    assert not one.equal(other)


def test_prompts_without_a_word_of_their_own_are_refused():
    with pytest.raises(Mismatch, match="share no token"):
        learned(case(ids=torch.tensor([[0, 3, *[1] * 6]])))
