"""What to forget, as data."""

from __future__ import annotations

import json

import pytest
import torch

from unlearn.audits import audit_views
from unlearn.errors import BadValue, UnknownName, UnlearnError
from unlearn.ops.division import part, pick
from unlearn.pool import Pool
from unlearn.request import KINDS, ForgetSequence, Labels, parse, request_dict, request_from
from unlearn.scenario import Seeds, removed_classes
from unlearn.scenario import parse as scenario
from unlearn.scenarios.cifar100 import COARSE, COARSE_OF_FINE, FINE, SUPERCLASSES
from unlearn.sources import Arrays
from unlearn.store import Store

Y = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
LABELS = Labels(
    Y,
    ("cat", "ship", "dog"),
    fine=torch.tensor([0, 0, 1, 1, 2, 3, 3, 3, 4, 4]),
    fine_classes=("tom", "tug", "raft", "pug", "lab"),
    groups=tuple("aabbabcabc"),
    spoilt=Y == 1,
    way="noisy",
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("class=1", [2, 3, 4]),
        ("class=ship", [2, 3, 4]),
        ("subclass=raft", [4]),
        ("subclass=3", [5, 6, 7]),
        ("group=c", [6, 9]),
        ("indices=9:0:4", [0, 4, 9]),
        ("concept=ship", [2, 3, 4]),
        ("concept=pug", [5, 6, 7]),
        ("noisy", [2, 3, 4]),
        ("class=cat+indices=5:0", [0, 1, 5]),
    ],
)
def test_a_request_names_these_rows(text, rows):
    asked = parse(text)
    assert asked.rows(LABELS, rng()).tolist() == rows
    assert parse(str(asked)) == asked
    assert request_from(json.loads(json.dumps(request_dict(asked)))) == asked


def test_a_share_is_drawn_by_the_generator():
    asked = parse("random=0.3")
    one, again, other = (asked.rows(LABELS, rng(s)).tolist() for s in (0, 0, 4))
    assert len(one) == 3
    assert one == again == sorted(set(one))
    assert one != other
    many = Labels(torch.zeros(10_000))
    assert len(parse("random=0.1").rows(many, rng())) == 1000


def test_every_kind_is_covered_above():
    spoilt = {"noisy", "confused", "poisoned", "planted"}
    plain = {"class", "subclass", "random", "indices", "group", "concept", "sequence"}
    assert set(KINDS) == plain | {"range"} | spoilt  # ranges: test_regression.py


@pytest.mark.parametrize("kind", ["noisy", "confused", "poisoned", "planted"])
def test_a_share_of_what_was_spoilt_is_drawn_and_a_reference_sees_none_of_it(kind):
    spoilt = torch.arange(100) % 2 == 0
    labels = Labels(torch.zeros(100), spoilt=spoilt, way=kind)
    asked = parse(f"{kind}=0.1")
    assert str(asked) == f"{kind}=0.1"
    assert request_from(json.loads(json.dumps(request_dict(asked)))) == asked == parse(str(asked))
    one, again, other = (asked.rows(labels, rng(s)).tolist() for s in (0, 0, 4))
    assert len(one) == 5 and one == again == sorted(set(one)) and one != other
    assert all(i % 2 == 0 for i in one)
    forget = torch.zeros(100, dtype=torch.bool)
    forget[one] = True
    assert torch.equal(asked.unseen(labels, forget), spoilt)
    assert torch.equal(parse("random=0.1").unseen(labels, forget), forget)
    assert parse(kind).rows(labels, rng()).tolist() == list(range(0, 100, 2))
    assert parse(f"{kind}=1") == parse(kind) and str(parse(kind)) == kind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poisoned=0", "share must be > 0 and <= 1, got 0.0"),
        ("poisoned=1.5", "share must be > 0 and <= 1, got 1.5"),
        ("confused=some", "'some' is no number"),
        ("planted=", "'' is no number"),
    ],
)
def test_a_share_that_cannot_be_is_refused(text, words):
    with pytest.raises(BadValue, match=words):
        parse(text)


def test_what_was_spoilt_in_another_way_is_refused_in_one_line():
    with pytest.raises(BadValue) as err:
        parse("poisoned").rows(LABELS, rng())
    assert "these data have no backdoor" in str(err.value) and "digits/poisoned,backdoor=0.05" in str(
        err.value
    )
    with pytest.raises(BadValue, match="the forget set is empty"):
        parse("noisy=0.01").rows(LABELS, rng())


def test_positions_come_from_a_file_too(tmp_path):
    path = tmp_path / "ids+1.txt"
    path.write_text("7\n2\n\n2\n")
    assert parse(str(path)).rows(LABELS, rng()).tolist() == [2, 7]
    assert parse(f"indices={path}") == parse(str(path))
    path.write_text("7\nx\n")
    with pytest.raises(BadValue, match="'x' is no position"):
        parse(str(path))
    path.write_text("")
    with pytest.raises(BadValue, match="holds no position"):
        parse(str(path))


def test_positions_are_those_of_the_data_as_given_when_some_are_held_out():
    whole = part(Arrays(torch.zeros(10, 1), Y), LABELS)
    held = pick(whole, torch.tensor([1, 3, 4, 8, 9]))
    assert held.labels.y.tolist() == [0, 1, 1, 2, 2]
    assert held.labels.groups == ("a", "b", "a", "b", "c")
    chosen = parse("indices=9:3").rows(held.labels, rng())
    assert held.rows[chosen].tolist() == [3, 9]
    with pytest.raises(
        BadValue, match="0 is outside the training set, which has positions 1 to 9, less those"
    ):
        parse("indices=9:0").rows(held.labels, rng())
    again = pick(held, torch.tensor([0, 3, 4]))
    assert again.rows[parse("indices=9").rows(again.labels, rng())].tolist() == [9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class=lion", "no class called 'lion'; there are 3: cat, ship, dog"),
        ("class=3", "no class called '3'"),
        ("subclass=poodle", "no sub-class called 'poodle'"),
        ("group=d", "no group called 'd'"),
        ("indices=10", "10 is outside the training set, which has positions 0 to 9"),
        ("indices=0:1:2:3:4:5:6:7:8:9", "the whole training set of 10"),
        ("random=0.01", "the forget set is empty"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(text, words):
    with pytest.raises(UnlearnError) as err:
        parse(text).rows(LABELS, rng())
    assert words in str(err.value)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("text", ["subclass=pug", "group=a", "noisy", "confused", "poisoned=0.1", "planted"])
def test_data_without_the_column_are_refused(text):
    with pytest.raises(BadValue, match="these data have no"):
        parse(text).rows(Labels(Y, LABELS.classes), rng())


@pytest.mark.parametrize(
    "text", ["", "clas=3", "random=much", "class=", "indices=a:b", "random=1.5", "random=0"]
)
def test_what_cannot_be_read_is_refused_in_one_line(text):
    with pytest.raises(UnlearnError) as err:
        parse(text)
    assert "\n" not in str(err.value)


def test_a_scenario_refuses_strange_words_and_two_requests():
    with pytest.raises(UnknownName, match="did you mean 'class'"):
        scenario("digits/clas=3")
    with pytest.raises(BadValue, match="two requests; join several with"):
        scenario("digits/class=3,class=5")


def test_a_sequence_is_served_step_by_step(tmp_path):
    pool = Pool(scenario("digits/class=3+random=0.5+class=4,epochs=1"), Store(tmp_path), torch.device("cpu"))
    assert isinstance(pool.scenario.request, ForgetSequence)
    trials = [pool.trial(Seeds(), step) for step in range(3)]
    forgotten: set[int] = set()
    for trial in trials:
        rows = {n: set(trial.handles[n].rows.tolist()) for n in ("forget", "retain")}
        assert rows["forget"].isdisjoint(forgotten | rows["retain"])
        if forgotten:
            assert set(trial.handles["forgotten"].rows.tolist()) == forgotten
        forgotten |= rows["forget"]
        assert rows["retain"] == set(pool.material.train.rows.tolist()) - forgotten
    assert [t.removed for t in trials] == [(3,), (3,), (3, 4)]


def test_what_has_no_kind_in_a_sequence_has_that_of_the_one_before():
    assert str(parse("class=1+2+3:4+random=0.1")) == "class=1+class=2+class=3:4+random=0.1"
    assert str(parse("indices=1:5+8+noisy")) == "indices=1:5+indices=8+noisy"
    assert str(scenario("digits/class=1+2,epochs=3")) == "digits/class=1+class=2,epochs=3"


def test_several_classes_at_once_are_one_request():
    labels = Labels(torch.tensor([0, 1, 2, 1, 0, 3]), ("ant", "bee", "cat", "a:b"))
    assert parse("class=0:bee").rows(labels, rng()).tolist() == [0, 1, 3, 4]
    assert parse("class=a:b").rows(labels, rng()).tolist() == [5]  # a name may hold the sign
    with pytest.raises(BadValue, match="no class called 'dog'"):
        parse("class=ant:dog").rows(labels, rng())


@pytest.mark.parametrize("text", ["class=3+4+3", "class=3:4+4", "class=3+random=0.1+class=3"])
def test_a_class_that_is_named_twice_is_refused_before_any_work(text):
    with pytest.raises(
        BadValue, match=r"class [34] is named twice, and can be forgotten once; leave one out"
    ):
        parse(text)


def test_a_class_that_is_named_by_number_and_name_is_refused_before_any_work(tmp_path):
    labels = Labels(torch.tensor([0, 1, 2]), ("ant", "bee", "cat"))
    with pytest.raises(BadValue, match="class=0:ant: class ant is named twice"):
        parse("class=0:ant").rows(labels, rng())
    pool = Pool(scenario("digits/indices=0:1+2+1,epochs=1"), Store(tmp_path), torch.device("cpu"))
    with pytest.raises(BadValue, match="indices=1: all of it was forgotten by an earlier request"):
        pool.draw(Seeds(), 0)


def test_the_classes_of_this_request_and_of_earlier_ones_are_told_apart():
    material = scenario("digits").material()
    y = material.test.labels.y
    views = audit_views(parse("class=5"), material, (3, 5), (5,))
    assert set(y[views["test_now"].rows].tolist()) == {5}
    assert set(y[views["test_earlier"].rows].tolist()) == {3}
    assert set(y[views["test_forget"].rows].tolist()) == {3, 5}
    assert {"test_now", "test_earlier"}.isdisjoint(audit_views(parse("class=3"), material, (3,), (3,)))
    after = audit_views(parse("random=0.1"), material, (3,), ())
    assert "test_now" not in after and set(y[after["test_earlier"].rows].tolist()) == {3}


def test_a_class_counts_as_removed_when_nothing_of_it_is_kept():
    mask = torch.zeros(10, dtype=torch.bool)
    mask[2:5] = True
    mask[5] = True
    assert removed_classes(LABELS, mask) == (1,)


def test_the_tree_of_cifar100_agrees_with_the_data(shared):
    members = json.loads((shared / "cifar100_subset" / "classes.json").read_text())["members"]
    assert all(SUPERCLASSES[c].split() == fine for c, fine in members.items())


def test_the_tree_of_cifar100_is_the_official_one():
    assert len(FINE) == 100
    assert len(COARSE) == 20
    assert COARSE_OF_FINE.bincount().tolist() == [5] * 20
    assert list(FINE) == sorted(FINE)
    for coarse, members in SUPERCLASSES.items():
        for fine in members.split():
            assert COARSE[COARSE_OF_FINE[FINE.index(fine)]] == coarse
    # the first twenty entries of the published table from fine to coarse ids
    assert COARSE_OF_FINE[:20].tolist() == [4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11]
