"""S3T: what survives deletions never saw the examples, and nothing else is left."""

import copy
import re
import warnings
from dataclasses import replace

import pytest
import torch
from sliced_system import CLASSES, RECIPE, S3T, data, differing, rng, split, state, system, trained, without
from torch import nn

from unlearn.data import Counted, Resident, Sealed
from unlearn.errors import BadValue, Exhausted
from unlearn.methods.s3t import S3T as Method
from unlearn.networks import NETWORKS, Transformer, seeded
from unlearn.ops.ladder import Adapted, ladder, mapped
from unlearn.ops.low_rank import applied
from unlearn.ops.orders import groups, parts_of, rotations, surviving
from unlearn.ops.recipe import SGD
from unlearn.ops.staged import Plan
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier, logits_of
from unlearn.subjects.sliced_classifier import SlicedClassifier

HANDLE = data()


@pytest.fixture(scope="module")
def original():
    return trained(S3T, HANDLE)


def test_survivors_are_those_of_the_orders(original):
    """A fixed sequence of deletions: slices 1 and 0 of shard 0, then slice 2 of shard 1."""
    done, gone = original.clone(), {0: [], 1: []}
    for part in (1, 0, 5):
        done.drop(done.slices()[part][:1])
        gone[part // 3].append(part % 3)
        assert done.left().tolist() == [surviving(S3T.orders, gone[k]) for k in (0, 1)]
    assert done.module.served == [(0, 1, 1), (1, 0, 2)]


@pytest.mark.parametrize("part", [0, 2, 4])
def test_what_is_left_equals_a_twin_that_never_saw_the_examples(original, part):
    ids = original.slices()[part][:2]
    done = Method().unlearn(original.clone(), split(HANDLE, ids), Run(3))
    twin = trained(S3T, without(HANDLE, ids))
    ours, theirs = state(done), state(twin)
    kept = [n for n in ours if n.startswith("kept.")]
    for name in kept:
        erased = ours[name] == 0
        assert torch.equal(ours[name][~erased], theirs[name][~erased]), name
        for stage in range(ours[name].shape[2]):
            at = done.module.spans[name[5:].replace("-", ".")][stage]
            used_up = done.left() <= at
            assert (ours[name][:, :, stage][used_up] == 0).all(), name
            if ours[name].is_floating_point():
                assert torch.equal(ours[name][:, :, stage][~used_up], theirs[name][:, :, stage][~used_up])
    assert torch.equal(ours["ids"], theirs["ids"])
    assert not differing({n: t for n, t in ours.items() if n.startswith("net.")},
                         {n: t for n, t in theirs.items() if n.startswith("net.")})  # fmt: skip


def test_a_twin_that_drops_the_same_slices_is_equal_in_everything(original):
    """Deleting all of what is left of a slice from the twin leaves it as the original is after one deletion."""
    whole = original.slices()[2]
    done = Method().unlearn(original.clone(), split(HANDLE, whole[:2]), Run(3))
    done.drop(whole[2:])
    twin = trained(S3T, without(HANDLE, whole[:2]))
    twin.drop(whole[2:])
    assert not differing(state(done), state(twin))


def test_each_stage_trains_its_group_from_the_top_and_the_classifier(original):
    """Four layers stand under the classifier 9: 7, 3 with 4, 0 with 1; three stages take one each."""
    assert ladder(original.module.net.inner).rungs == [["0", "1"], ["3", "4"], ["7"]]
    of = {n: s for n, s in original.module.spans.items() if n.endswith("weight")}
    assert of == {"inner.9.weight": [0, 1, 2], "inner.7.weight": [0], "inner.3.weight": [1], "inner.4.weight": [1],
                  "inner.0.weight": [2], "inner.1.weight": [2]}  # fmt: skip
    begun = original.module.net.state_dict()
    first = original.module.state(0, 0, 1)
    assert first.keys() == {"inner.7.weight", "inner.7.bias", "inner.9.weight", "inner.9.bias"}
    assert all(not torch.equal(t, begun[n]) for n, t in first.items())
    second = original.module.state(0, 0, 2)
    assert torch.equal(second["inner.7.weight"], first["inner.7.weight"])
    assert not torch.equal(second["inner.9.weight"], first["inner.9.weight"])


def test_a_stage_is_the_recipe_on_those_parameters_alone(original):
    """The second stage of the second order of shard 1, by hand: all parameters frozen but those of its group."""
    order = S3T.orders[1]
    plain = copy.deepcopy(original.module.net)
    plain.load_state_dict(original.module.state(1, 1, 1), strict=False)
    free = ("inner.3.", "inner.4.", "inner.9.")
    for name, p in plain.named_parameters():
        p.requires_grad_(name.startswith(free))
    rows = HANDLE.rows[torch.isin(parts_of(HANDLE.rows, 6), torch.tensor([3 + s for s in order[:2]]))]
    handle, seed = HANDLE.take(rows), original.module.chance(1, order[:2])
    frozen = [plain.inner[0], plain.inner[1], plain.inner[7]]
    hooks = [m.register_forward_pre_hook(lambda m, _: setattr(m, "training", False)) for m in frozen]
    RECIPE.fit(Classifier(plain, CLASSES), handle, Run(seed))
    for hook in hooks:
        hook.remove()
    kept = original.module.state(1, 1, 2)
    for name, tensor in plain.state_dict().items():
        if name.startswith(free):
            assert torch.equal(kept[name], tensor), name


def test_shards_predict_by_the_mean_of_their_logits_from_the_longest_prefix(original):
    done = original.clone()
    done.drop(done.slices()[1][:1])
    batch, logits = next(HANDLE.batches(9)), []
    for shard, order, stages in ((0, 1, 2), (1, 0, 3)):
        plain = copy.deepcopy(done.module.net)
        plain.load_state_dict(done.module.state(shard, order, stages), strict=False)
        logits.append(plain.eval()(batch.x))
    with mode(done.module, train=False):
        torch.testing.assert_close(done.outputs(batch), (logits[0] + logits[1]) / 2)


def test_it_reads_the_ids_of_the_forget_set_and_no_retained_example(original):
    ids = original.slices()[2][:2]
    forget = Counted(HANDLE.only(ids))
    lent = replace(split(HANDLE, ids), forget=forget, retain=Sealed("retain", "s3t"))
    Method().unlearn(original.clone(), lent, Run(0))
    assert forget.read == 2


def test_when_nothing_is_left_it_says_that_the_model_must_be_retrained(original):
    ids = torch.stack([s[0] for s in original.slices()])
    with pytest.raises(
        Exhausted, match="so nothing is left that may be used; retrain the model without them"
    ) as err:
        Method().unlearn(original.clone(), split(HANDLE, ids), Run(0))
    assert "\n" not in str(err.value)
    spent = original.clone()
    spent.drop(ids)
    more = spent.slices()[0][:1]
    with pytest.raises(Exhausted):  # a deletion after the last surviving prefix
        Method().unlearn(spent, split(without(HANDLE, ids), more), Run(0))


def test_a_spent_system_answers_nothing_and_drops_nothing(original):
    """Whether examples are left, as after one of every slice, or all were dropped; an untrained one answers."""
    batch = next(HANDLE.batches(4))
    untrained = system(S3T)
    untrained.drop(HANDLE.rows[:2])
    assert untrained.outputs(batch).shape == (4, CLASSES)
    for ids in (torch.stack([s[0] for s in original.slices()]), HANDLE.rows):
        spent = original.clone()
        spent.drop(ids)
        again = original.clone()
        again.module.load_state_dict(spent.module.state_dict())
        for one in (spent, again, spent.clone()):
            with pytest.raises(
                Exhausted, match="left no stage of this system that may be used; train the missing"
            ) as err:
                one.outputs(batch)
            assert "\n" not in str(err.value)
    with pytest.raises(Exhausted, match="left no stage"):
        Method().unlearn(spent, split(HANDLE, HANDLE.rows[:2]), Run(0))


def test_orders_that_begin_alike_share_what_they_learned():
    made = trained(Plan(1, ((0, 1, 2), (0, 2, 1)), layered=True, vote="logits"), HANDLE)
    first, second = (made.module.state(0, b, 1) for b in (0, 1))
    assert all(torch.equal(t, second[n]) for n, t in first.items())
    assert not torch.equal(
        made.module.state(0, 0, 2)["inner.9.weight"], made.module.state(0, 1, 2)["inner.9.weight"]
    )
    again = made.clone()
    again.drop(again.slices()[1][:1])
    rest = without(HANDLE, made.slices()[1][:1])
    again.resume(rest, Run(0))
    twin = trained(made.module.plan, rest)
    assert not differing(state(again), state(twin))


def test_more_slices_than_layers_are_refused():
    with pytest.raises(BadValue, match="4 slices need 4 groups of layers, and this network has 3 layers"):
        system(Plan(2, rotations(4, 4), layered=True))


@pytest.mark.parametrize("orders", [(), ((0, 2),), ((0, 1), (0, 1)), ((0, 1), (0, 1, 2)), ((1, 2),)])
def test_orders_must_be_different_orders_of_the_same_slices(orders):
    with pytest.raises(BadValue, match="orders must be different orders of the same slices"):
        Plan(2, orders)


def test_a_system_needs_a_shard():
    with pytest.raises(BadValue, match="at least one shard, got 0"):
        Plan(0, ((0, 1),))


def vit(layers=12):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8, image_size=6,
                       patch_size=3, num_channels=1, num_labels=CLASSES, hidden_dropout_prob=0.1)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ViTForImageClassification(config)


def test_six_stages_of_a_vit_take_two_of_its_twelve_layers_each():
    found = ladder(seeded(vit, rng()))
    assert found.stacked and found.head == "classifier" and len(found.rungs) == 12
    names = [rung[0] for rung in found.rungs]
    pile = names[0].removesuffix("0")
    assert groups(names, 6)[-1] == [f"{pile}1", f"{pile}0"]
    assert groups(names, 6)[0] == [f"{pile}11", f"{pile}10"]


@pytest.fixture(scope="module")
def transformer():
    def net():
        return vit(4)

    start = Classifier(seeded(net, rng()), CLASSES, SGD(epochs=1, lr=0.05, batch_size=8), net, read=logits_of)
    made = SlicedClassifier.of(start, Plan(1, rotations(2, 2), layered=True, rank=4, vote="logits"), rng())
    made.fit(HANDLE, Run(0))
    return made


def test_a_transformer_trains_low_rank_maps_of_queries_and_values_only(transformer):
    by_stage = [[], []]
    for name, span in transformer.module.spans.items():
        for stage in span:
            by_stage[stage].append(name)
    for stage, layers in ((0, {2, 3}), (1, {0, 1})):
        maps = {n for n in by_stage[stage] if n.startswith("maps.")}
        assert {n for n in by_stage[stage] if n not in maps} == {
            "inner.classifier.weight",
            "inner.classifier.bias",
        }
        assert len(maps) == 2 * 2 * 2  # layers, query and value, factors
        assert {int(re.search(r"/(\d+)/", n)[1]) for n in maps} == layers
    first = transformer.module.state(0, 0, 1)
    ups = [t for n, t in first.items() if n.endswith(".up")]
    assert ups and all(t.any() and t.shape == (8, 4) for t in ups)


def test_a_transformer_is_deleted_from_exactly(transformer):
    ids = transformer.slices()[1][:2]
    done = transformer.clone()
    done.drop(ids)
    assert done.left().tolist() == [[1, 0]]
    done.resume(without(HANDLE, ids), Run(0))
    twin = transformer.clone()
    twin.again(without(HANDLE, ids), Run(9))
    assert not differing(state(done), state(twin))


def test_a_low_rank_map_adds_its_scaled_product(transformer):
    """W x + √r U D x, for one map, on what enters its layer."""
    net = copy.deepcopy(transformer.module.net)
    net.load_state_dict(transformer.module.state(0, 0, 2), strict=False)
    key, low = next(iter(net.maps.items()))
    layer, seen = net.inner.get_submodule(key.replace("/", ".")), []
    layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    net.eval()(next(HANDLE.batches(2)).x)
    x = seen[0]
    with applied(net.inner, net.maps, net.scale):
        found = layer(x)
    torch.testing.assert_close(found, x @ layer.weight.T + layer.bias + 2 * x @ low.down.T @ low.up.T)


def test_a_fused_projection_gets_maps_of_its_queries_and_values_alone():
    """Attention of one head worked out from separate matrices: W_q + √r U D, W_k, W_v + √r U D."""
    block = Transformer(6, 1).double()
    layers = mapped(nn.ModuleList([block]), ["0"])
    assert layers == [block.attention.qkv]
    net = Adapted(block.attention, layers, 4, rng(), lambda out: out)
    low, x = net.maps["qkv"], torch.randn(2, 5, 6, generator=rng(1), dtype=torch.float64)
    assert (low.down.shape, low.up.shape) == ((2, 4, 6), (2, 6, 4))
    torch.testing.assert_close(net(x), block.attention(x))
    with torch.no_grad():
        low.up.normal_(generator=rng(2))
        w, b = block.attention.qkv.weight.view(3, 6, 6), block.attention.qkv.bias.view(3, 6)
        added = 2 * low.up @ low.down
        q, k, v = (x @ m.T + c for m, c in zip((w[0] + added[0], w[1], w[2] + added[1]), b, strict=True))
        seen = (q @ k.mT / 6**0.5).softmax(2) @ v
        torch.testing.assert_close(net(x), block.attention.out(seen))


def test_the_stages_of_our_own_transformer_train_a_block_each():
    start = Classifier(seeded(lambda: NETWORKS["vit"](1, CLASSES), rng()), CLASSES, RECIPE)
    spans = SlicedClassifier.of(start, Plan(1, rotations(3, 1), layered=True, rank=2), rng()).module.spans
    assert spans == {
        "inner.head.weight": [0, 1, 2], "inner.head.bias": [0, 1, 2],
        **{f"maps.blocks/{2 - k}/attention/qkv.{w}": [k] for k in range(3) for w in ("down", "up")},
    }  # fmt: skip


def test_rows_serve_as_well_as_images():
    """A plain network of linear layers trains its own weights, for nothing in it is pretrained."""

    def net():
        return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6), torch.nn.ReLU(),
                                   torch.nn.Linear(6, 2))  # fmt: skip

    x = torch.randn(40, 5, generator=rng())
    start = Classifier(seeded(net, rng()), 2, RECIPE, net)
    made = SlicedClassifier.of(start, Plan(2, rotations(2, 2), layered=True), rng())
    made.fit(Resident(Arrays(x, (x[:, 0] > 0).long())), Run(0))
    assert set(made.module.spans) == {f"inner.{k}.{w}" for k in (0, 2, 4) for w in ("weight", "bias")}
