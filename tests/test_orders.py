"""Orders of slices, what deletions leave of them, and how many deletions a system bears."""

import itertools
import math
from statistics import mean

import pytest
import torch
from scipy.stats import chisquare

from unlearn.errors import BadValue
from unlearn.ops.capacity import expected, firsts, simulated
from unlearn.ops.orders import (
    groups,
    matched,
    parts_of,
    rotations,
    sampled,
    score,
    stage_epochs,
    surviving,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rotations_of_four_slices_in_thirteen_orders():
    """The twelve that keep their first slice while the rest turns, and one more that keeps two."""
    assert sorted(rotations(4, 13)) == [
        (0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 3, 1), (0, 3, 1, 2),
        (1, 0, 2, 3), (1, 2, 3, 0), (1, 3, 0, 2),
        (2, 0, 1, 3), (2, 1, 3, 0), (2, 3, 0, 1),
        (3, 0, 1, 2), (3, 1, 2, 0), (3, 2, 0, 1),
    ]  # fmt: skip


def test_few_orders_are_plain_rotations_and_many_are_all():
    assert rotations(4, 3) == ((0, 1, 2, 3), (3, 0, 1, 2), (2, 3, 0, 1))
    assert rotations(1, 1) == ((0,),)
    assert set(rotations(4, 24)) == set(itertools.permutations(range(4)))


@pytest.mark.parametrize("budget", range(1, 25))
def test_orders_differ_and_begin_with_as_many_slices_as_they_can(budget):
    found = rotations(4, budget)
    assert len(set(found)) == budget
    assert all(sorted(o) == [0, 1, 2, 3] for o in found)
    assert len({o[0] for o in found}) == min(4, budget)


@pytest.mark.parametrize("budget", [0, 7])
def test_as_many_orders_as_there_are(budget):
    with pytest.raises(BadValue, match=f"3 slices have between 1 and 6 orders; got {budget}"):
        rotations(3, budget)


def test_survivors_after_a_fixed_sequence_of_deletions():
    """Worked by hand: 0123, 3012, 2301, 1230 lose slice 2, then 0, then 3; slice 2 again changes nothing."""
    orders = rotations(4, 4)
    assert surviving(orders, []) == [4, 4, 4, 4]
    assert surviving(orders, [2]) == [2, 3, 0, 1]
    assert surviving(orders, [2, 0]) == [0, 1, 0, 1]
    assert surviving(orders, [2, 0, 2, 3]) == [0, 0, 0, 1]
    assert surviving(orders, [2, 0, 3, 1]) == [0, 0, 0, 0]


@pytest.mark.parametrize("slice_", [-1, 4])
def test_a_slice_that_does_not_exist_is_refused(slice_):
    with pytest.raises(BadValue, match=f"there is no slice {slice_}; there are 4, numbered 0 to 3"):
        surviving(rotations(4, 4), [0, slice_])


def test_epochs_of_each_slice():
    assert stage_epochs(20, 5) == [6, 7, 7, 6, 7]


@pytest.mark.parametrize(("epochs", "slices"), [(1, 4), (7, 3), (15, 4), (20, 5), (100, 1)])
def test_stages_cost_what_the_epochs_over_the_whole_shard_do(epochs, slices):
    """Stage s passes over (s + 1) / S of a shard; rounding moves less than one epoch of each stage."""
    found = stage_epochs(epochs, slices)
    a = 2 * epochs / (slices + 1)
    assert found == [math.floor((s + 1) * a + 1e-9) - math.floor(s * a + 1e-9) for s in range(slices)]
    cost = sum(e * (s + 1) / slices for s, e in enumerate(found))
    assert abs(cost - epochs) < slices


def test_layers_of_a_vit_in_six_stages_by_their_whole_names():
    found = groups([f"layer.{i}" for i in range(12)], 6)
    assert found == [
        ["layer.11", "layer.10"], ["layer.9", "layer.8"], ["layer.7", "layer.6"],
        ["layer.5", "layer.4"], ["layer.3", "layer.2"], ["layer.1", "layer.0"],
    ]  # fmt: skip
    assert groups([f"layer.{i}" for i in range(7)], 3)[-1] == ["layer.2", "layer.1"]  # 0 is never trained


def test_more_slices_than_layers_are_refused():
    with pytest.raises(BadValue, match="3 slices need 3 groups of layers, and this network has 2"):
        groups(["a", "b"], 3)


def test_score_by_hand():
    """1 (1 − 0.5)² + 2 (1 − 0.75)²."""
    assert score([0.5, 0.25], 2) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("p", "deletions"),
    [
        ([0.05, 0.2, 0.02, 0.1], 10),
        ([0.0, 0.0, 0.5], 100),
        ([0.001, 0.001, 0.05], 100),
        ([0.0, 0.0, 0.0, 0.9], 100),
    ],
)
def test_matching_takes_the_best_allowed_assignment_at_every_place(p, deletions):
    orders, slices = matched(p, deletions), range(len(p))
    assert all(sorted(o) == list(slices) for o in orders)
    assert [o[0] for o in orders] == list(slices)
    for place in slices[1:]:
        heads, chosen = [o[:place] for o in orders], [o[place] for o in orders]
        assert sorted(chosen) == list(slices)

        def total(assigned, heads=heads):
            return sum(
                score([p[s] for s in (*h, j)], deletions) for h, j in zip(heads, assigned, strict=True)
            )

        allowed = [a for a in itertools.permutations(slices)
                   if all(j not in h for h, j in zip(heads, a, strict=True))]  # fmt: skip
        assert total(chosen) == pytest.approx(max(map(total, allowed)), abs=1e-12)


def test_matching_by_hand_where_two_slices_are_never_deleted():
    """Gains 3 for 0 1 and 1 0, 1 for 0 2 and 1 2, 0 for 2 0 and 2 1: both are best with 3 + 1 + 0, and 3 + 3 is forbidden."""
    assert [score([0.0, 0.0]), score([0.0, 0.5])] == pytest.approx([3, 1], abs=1e-9)
    assert matched([0.0, 0.0, 0.5]) in (((0, 1, 2), (1, 2, 0), (2, 0, 1)), ((0, 2, 1), (1, 0, 2), (2, 1, 0)))


def test_sampled_orders_differ_and_put_what_is_deleted_often_last():
    p = [0.6, 0.3, 0.0]
    assert set(sampled(p, 6, rng())) == set(itertools.permutations(range(3)))
    counts = torch.bincount(torch.tensor([sampled(p, 1, rng(k))[0][0] for k in range(400)]), minlength=3)
    weights = torch.tensor([0.4, 0.7, 1.0], dtype=torch.float64)
    assert chisquare(counts, weights / weights.sum() * 400).pvalue > 0.001


@pytest.mark.parametrize("chances", [[], [0.5, -0.1], [0.7, 0.7], [1.0, 0.0]])
def test_chances_must_be_probabilities(chances):
    for choose in (matched, lambda p: sampled(p, 1, rng())):
        with pytest.raises(BadValue, match="chances of deletion must be"):
            choose(chances)


def test_more_orders_than_there_are_cannot_be_drawn():
    with pytest.raises(BadValue, match="2 slices have between 1 and 2 orders; got 3"):
        sampled([0.1, 0.1], 3, rng())


def test_parts_follow_from_the_id_alone():
    ids = torch.randperm(3000, generator=rng())
    found = parts_of(ids, 7)
    few = torch.tensor([5, 2999, 17])
    assert torch.equal(parts_of(few, 7), torch.stack([found[ids == i][0] for i in few]))
    assert chisquare(torch.bincount(found, minlength=7)).pvalue > 0.001


def test_parts_are_those_of_splitmix():
    """The reference algorithm in whole numbers; its first output for state 0 is 0xE220A8397B1DCDAF."""

    def splitmix(state):
        z = (state + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert splitmix(0) == 0xE220A8397B1DCDAF
    assert parts_of(torch.arange(50), 1000).tolist() == [splitmix(i) % 1000 for i in range(50)]


def alive(shards, orders):
    return torch.full((shards, len(orders)), len(orders[0]))


def test_capacity_of_five_shards_of_four_slices():
    """Fixture s3t.capacity: SISA 45.6667, S3T 71.9548, simulations within 1.5; all 24 orders bear no more than 4."""
    assert expected(20, 5) == pytest.approx(45.6667, abs=5e-5)
    assert expected(20, 20) == pytest.approx(71.9548, abs=5e-5)
    for budget, theory in ((1, 45.6667), (4, 71.9548), (24, 71.9548)):
        orders = rotations(4, budget)
        assert expected(20, len(firsts(orders, alive(5, orders)))) == pytest.approx(theory, abs=5e-5)
        found = simulated(orders, alive(5, orders), 4000, rng()).double().mean()
        assert abs(float(found) - theory) < 1.5


def test_a_simulation_is_what_sets_of_deleted_slices_say():
    """In plain words: a shard is used up when some slice at the head of each of its orders was hit."""
    orders, random = rotations(3, 2), torch.Generator().manual_seed(1)

    def one():
        hit = set()
        while not all({(k, o[0]) for o in orders} <= hit for k in range(2)):
            hit.add(divmod(int(torch.randint(6, (), generator=random)), 3))
            yield

    plain = mean(sum(1 for _ in one()) for _ in range(1000))
    found = simulated(orders, alive(2, orders), 4000, rng()).double()
    assert float(found.mean()) == pytest.approx(plain, abs=0.8)
    assert float(found.mean()) == pytest.approx(expected(6, 4), abs=0.5)


def test_what_is_used_up_counts_no_more():
    orders = rotations(3, 3)
    left = torch.tensor([[0, 2, 0], [0, 0, 0]])
    assert firsts(orders, left) == [2]  # the second rotation begins with slice 2
    assert float(simulated(orders, left, 4000, rng()).double().mean()) == pytest.approx(6, abs=0.4)
    assert simulated(orders, torch.zeros(2, 3, dtype=torch.long), 5, rng()).tolist() == [0] * 5


def test_slices_can_have_chances_of_their_own():
    """One order of two slices ends with the first slice: a geometric time of mean 1 / 0.1."""
    orders = rotations(2, 1)
    found = simulated(orders, alive(1, orders), 4000, rng(), [0.1, 0.9]).double()
    assert float(found.mean()) == pytest.approx(10, abs=0.6)
    with pytest.raises(BadValue, match="slice 0 has no chance of a deletion"):
        simulated(orders, alive(1, orders), 10, rng(), [0.0, 1.0])
