"""Ring-A-Bell: fitness by hand, how a generation follows from the last, and a search with a known end."""

from itertools import pairwise

import torch
from tiny_case import IDS, case

from unlearn.attacks.ring_a_bell import (
    RingABell,
    best_first,
    bred,
    direction,
    distances,
    flat,
    states,
    vocabulary,
)
from unlearn.ops.prompts import nearest
from unlearn.testing.tiny import same, tensors

SMALL = {"population": 8, "generations": 4, "tries": 2, "length": 4}


def text(one, ids):
    """Text states of one prompt, flat, straight from the encoder."""
    with torch.no_grad():
        return one.clean.text(input_ids=ids[None]).last_hidden_state.flatten()


def test_fitness_is_the_summed_squared_distance_of_text_states():
    one = case()
    rng = torch.Generator().manual_seed(0)
    found = torch.randint(0, 20, (3, 5, 8), generator=rng)
    goal = torch.randn(3, 8 * 16, generator=rng, dtype=torch.float64)
    got = distances(one.clean, found, goal)
    for u in range(3):
        for p in range(5):
            by_hand = (text(one, found[u, p]) - goal[u]).square().sum()
            assert torch.allclose(got[u, p], by_hand, rtol=1e-9)


def test_fitness_does_not_depend_on_how_many_prompts_are_encoded_at_once(monkeypatch):
    one, found = case(), torch.randint(0, 20, (3, 5, 8), generator=torch.Generator().manual_seed(0))
    goal = states(one.clean, IDS)
    whole = distances(one.clean, found, goal)
    monkeypatch.setattr("unlearn.attacks.ring_a_bell.ROWS", 4)
    assert torch.allclose(distances(one.clean, found, goal), whole, rtol=1e-9)


def test_the_direction_is_the_mean_difference_of_pairs():
    one = case()
    pairs = [(0, 0), (1, 1), (2, 2)]  # each differs from its partner in the fewest tokens
    others = torch.tensor([[0, 3, *[1] * 6], [0, 5, 4, *[1] * 5], [0, 4, 6, *[1] * 5]])
    one.others = others
    expected = torch.stack([text(one, IDS[a]) - text(one, others[b]) for a, b in pairs]).mean(0)
    assert torch.allclose(direction(one), expected, rtol=1e-9, atol=1e-12)


def test_equally_similar_prompts_are_all_chosen_in_time():
    rng = torch.Generator().manual_seed(0)
    found = nearest(
        torch.tensor([[0, 2, 7, 1]] * 60), torch.tensor([[0, 3, 7, 1], [0, 9, 9, 1], [0, 4, 7, 1]]), rng
    )
    assert set(found.tolist()) == {0, 2}


def test_prompts_are_sorted_each_among_its_own():
    found = torch.arange(12).view(2, 3, 2)
    distance = torch.tensor([[2.0, 0.0, 1.0], [0.0, 5.0, 1.0]])
    assert best_first(found, distance).tolist() == [[[2, 3], [4, 5], [0, 1]], [[6, 7], [10, 11], [8, 9]]]


def test_children_have_the_head_of_one_parent_and_the_tail_of_another():
    found = torch.arange(7)[None, :, None].repeat(2, 1, 6)
    after = bred(found, torch.Generator().manual_seed(0))
    assert after.shape == found.shape and after[:, :4].equal(found[:, :4])
    for u in range(2):
        for k, child in enumerate(after[u, 4:].tolist()):
            cut = child.count(k) if child[-1] != k else 6
            assert child[0] == k and child == [k] * cut + [child[-1]] * (6 - cut) and child[-1] < 4


def test_mutation_changes_one_token_in_a_share_and_never_in_the_best():
    found, pool = torch.full((1, 4001, 8), 5), torch.tensor([7, 9])
    after = RingABell(mutation=0.25, length=4).mutated(found, pool, torch.Generator().manual_seed(0))
    changed = (after != found).sum(2)[0]
    assert changed[0] == 0 and int(changed.max()) == 1
    assert abs(float(changed.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert sorted((after != found).any(1)[0].nonzero().flatten().tolist()) == [1, 2, 3, 4]
    assert set(after.unique().tolist()) == {5, 7, 9}
    every = RingABell(mutation=1.0, length=4).mutated(found[:, :9], pool, torch.Generator().manual_seed(1))
    assert (every != found[:, :9]).sum(2)[0].tolist() == [0, *[1] * 8]


def test_the_first_generation_begins_ends_and_has_words_between():
    one = case()
    pool = vocabulary(one)
    assert sorted(pool.tolist()) == list(range(2, 20))
    found = RingABell(population=50, length=4).first(3, one.clean.empty, pool, one.run.rng)
    assert (
        found.shape == (3, 50, 8) and bool((found[..., 0] == 0).all()) and bool((found[..., 5:] == 1).all())
    )
    assert found[..., 1:5].min() >= 2
    longest = RingABell(length=99).first(3, one.clean.empty, pool, one.run.rng)
    assert bool((longest[..., 6:] == 1).all()) and longest[..., 1:6].min() >= 2


def test_without_more_of_the_concept_the_search_comes_close_to_the_prompt_itself():
    """The distance of the best never grows, and ends below a tenth of that of the first generation's best."""
    one = case()
    attack, pool, goal = RingABell(population=60, length=2), vocabulary(one), states(one.clean, IDS[1:2])
    found, best = attack.first(1, one.clean.empty, pool, one.run.rng), []
    for _ in range(60):
        far = distances(one.clean, found, goal)
        found = best_first(found, far)
        best.append(float(far.min()))
        found = attack.mutated(bred(found, one.run.rng), pool, one.run.rng)
    assert all(b <= a + 1e-9 for a, b in pairwise(best))
    assert best[-1] < best[0] / 10


def test_conditionings_of_several_tensors_are_all_read():
    cond = {"states": torch.ones(2, 3, 4), "more": (torch.zeros(2, 5), torch.full((2, 1), 2.0))}
    assert flat(cond).shape == (2, 18) and flat(cond).sum(1).tolist() == [14.0, 14.0]


def attempted(one, **fields):
    return [(r.tolist(), c.clone()) for r, c in RingABell(**{**SMALL, **fields}).attempts(one)]


def test_equal_prompts_share_a_search_and_those_that_succeeded_are_left_out():
    one, tried = case(ids=IDS[[0, 1, 0]]), []
    before = tensors(one.clean)
    for rows, cond in RingABell(**SMALL).attempts(one):
        tried.append(rows.tolist())
        assert len(cond) == len(rows) and (len(rows) < 3 or cond[0].equal(cond[2]))
        one.hit[rows[0]] = True
    assert tried == [[0, 1, 2], [1, 2]]
    assert same(tensors(one.clean), before)
    over = case()
    over.hit[:] = True
    assert not attempted(over)


def test_the_erased_model_is_only_drawn_from():
    """Other weights of the attacked denoiser and text encoder lead to the same prompts."""
    one, two = case(), case()
    with torch.no_grad():
        for p in two.victim.module.parameters():
            p.mul_(1.5)
    said = ([], [])
    for c, kept in zip((one, two), said, strict=True):
        asked = type(c).asked
        for _ in RingABell(**SMALL).attempts(Watching(c, kept, asked)):
            pass
    assert len(said[0]) == 2 and all(a.equal(b) for a, b in zip(*said, strict=True))


class Watching:
    """A case that remembers the prompts that were asked."""

    def __init__(self, inner, kept, asked):
        self._inner, self._kept, self._asked = inner, kept, asked

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def asked(self, ids):
        self._kept.append(ids)
        return self._asked(self._inner, ids)


def test_a_seed_decides_everything():
    one, two, other = (attempted(case(seed=s))[-1][1] for s in (0, 0, 1))
    assert one.equal(two) and not one.equal(other)
