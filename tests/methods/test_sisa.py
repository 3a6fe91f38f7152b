"""SISA: what is left after a deletion is, bit for bit, what never having seen the examples gives."""

import copy

import pytest
import torch
from sliced_system import (
    CLASSES,
    RECIPE,
    S3T,
    SISA,
    data,
    differing,
    rng,
    split,
    start,
    state,
    system,
    trained,
    without,
)

from unlearn.errors import BadValue, Mismatch
from unlearn.methods.sisa import SISA as Method
from unlearn.ops.orders import parts_of, stage_epochs
from unlearn.ops.staged import Plan, combined
from unlearn.runtime import Run, seeded_globals
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier

HANDLE = data()


@pytest.fixture(scope="module")
def original():
    return trained(SISA, HANDLE)


def some(original, part, n=2):
    return original.slices()[part][:n]


@pytest.mark.parametrize("part", [0, 1, 2, 4])
def test_deleting_equals_never_having_seen(original, part):
    ids = some(original, part)
    done = Method().unlearn(original.clone(), split(HANDLE, ids), Run(77))
    twin = trained(SISA, without(HANDLE, ids))  # a system of its own, from the same seeds
    assert not differing(state(done), state(twin))
    assert differing(state(done), state(original))


def test_deleting_one_after_the_other_equals_deleting_together(original):
    first, second = some(original, 1), some(original, 3)
    both = torch.cat([first, second])
    at_once = Method().unlearn(original.clone(), split(HANDLE, both), Run(0))
    step = Method().unlearn(original.clone(), split(HANDLE, first), Run(1))
    step = Method().unlearn(step, split(without(HANDLE, first), second), Run(2))
    assert not differing(state(step), state(at_once))


def test_only_the_stages_from_the_first_touched_slice_on_change(original):
    """Slice 1 of shard 1: both stages from it on, and no other stage."""
    done = Method().unlearn(original.clone(), split(HANDLE, some(original, 4)), Run(0))
    for name, now in state(done).items():
        if not name.startswith("kept.") or "num_batches" in name:
            continue
        was = state(original)[name]
        moved = (now != was).flatten(3).any(-1)[:, 0].tolist()
        assert moved == [[False] * 3, [False, True, True]], name


def test_a_whole_slice_can_go(original):
    ids = original.slices()[0]
    done = Method().unlearn(original.clone(), split(HANDLE, ids), Run(0))
    assert len(done.slices()[0]) == 0
    assert not differing(state(done), state(trained(SISA, without(HANDLE, ids))))


def test_a_whole_shard_can_go_and_predicts_no_more(original):
    ids = torch.cat(original.slices()[:3])
    done = Method().unlearn(original.clone(), split(HANDLE, ids), Run(0))
    assert [k for k, _, _ in done.module.served] == [1]
    assert done.left().tolist() == [[0], [3]]
    assert not differing(state(done), state(trained(SISA, without(HANDLE, ids))))


def test_on_a_system_of_s3t_it_trains_the_missing_stages_of_all_orders():
    original = trained(S3T, HANDLE)
    ids = some(original, 2)
    done = Method().unlearn(original.clone(), split(HANDLE, ids), Run(0))
    assert not differing(state(done), state(trained(S3T, without(HANDLE, ids))))


def test_each_stage_is_the_recipe_on_the_slices_so_far(original):
    """A plain loop over the stages of shard 1."""
    epochs = stage_epochs(RECIPE.epochs, 3)
    assert epochs == [2, 2, 2]
    plain = start()
    for stage in range(3):
        slices = tuple(range(stage + 1))
        rows = HANDLE.rows[torch.isin(parts_of(HANDLE.rows, 6), torch.tensor([3 + s for s in slices]))]
        seed = original.module.chance(1, slices)
        with seeded_globals(seed, torch.device("cpu")):
            RECIPE.model_copy(update={"epochs": epochs[stage]}).fit(plain, HANDLE.take(rows), Run(seed))
        kept = original.module.state(1, 0, stage + 1)
        for name, tensor in plain.module.state_dict().items():
            assert torch.equal(kept[f"inner.{name}"], tensor), name


def test_shards_predict_by_their_mean_probability(original):
    batch = next(HANDLE.batches(9))
    nets = []
    for shard in range(2):
        plain = copy.deepcopy(original.module.net)
        plain.load_state_dict(original.module.state(shard, 0, 3), strict=False)
        nets.append(Classifier(plain.eval(), CLASSES).outputs(batch).softmax(1))
    with mode(original.module, train=False):
        found = original.outputs(batch).softmax(1)
    torch.testing.assert_close(found, (nets[0] + nets[1]) / 2)


def test_votes_count_classes_and_ties_go_to_the_mean_probability():
    logits = torch.tensor(
        [[[9.0, 0, 0], [5.0, 0, 0]], [[0, 1.0, 0], [0, 0.1, 0]], [[0, 1.0, 0], [0, 0, 0.1]]]
    )
    found = combined(logits, "votes")
    assert found.argmax(1).tolist() == [1, 0]  # two of three, then one each
    assert combined(logits, "probabilities").argmax(1).tolist() == [0, 0]
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))


def test_slices_share_no_example_and_hold_all(original):
    found = torch.cat(original.slices())
    assert torch.equal(found.sort().values, HANDLE.rows)
    assert len(original.slices()) == 6


def test_a_saved_system_is_read_into_a_new_one(original):
    fresh = original.fresh(rng(5))
    assert len(fresh.module.ids) == 0
    fresh.module.load_state_dict(state(original))
    assert not differing(state(fresh), state(original))
    batch = next(HANDLE.batches(9))
    with torch.no_grad():
        assert torch.equal(fresh.outputs(batch), original.outputs(batch))


def test_features_of_the_shards_lie_side_by_side(original):
    batch = next(HANDLE.batches(5))
    features, out = original.features_and_outputs(batch)
    assert features.shape == (5, 16) and out.shape == (5, CLASSES)
    assert torch.equal(original.features(batch), features)


def test_an_example_that_it_never_saw_is_refused(original):
    with pytest.raises(BadValue, match=r"example 900 is not in this system \(1 such\)"):
        original.clone().drop(torch.tensor([3, 900]))
    gone = original.clone()
    gone.drop(torch.tensor([3]))
    with pytest.raises(BadValue, match="dropped it before"):
        gone.drop(torch.tensor([3]))


def test_more_shards_than_examples_are_refused():
    many = system(Plan(99, ((0,),)))
    with pytest.raises(BadValue, match="99 shards cannot be made of 72 examples; ask for fewer shards"):
        many.fit(HANDLE, Run(0))


def test_without_a_recipe_nothing_is_trained():
    blind = system(SISA, recipe=None)
    with pytest.raises(Mismatch, match="no training recipe"):
        blind.fit(HANDLE, Run(0))


def test_other_seeds_make_another_system(original):
    assert differing(state(original), state(trained(SISA, HANDLE, seed=1)))
