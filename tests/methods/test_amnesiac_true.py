"""True amnesiac: the record adds up to the training, and steps with forgotten examples leave it."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from unlearn.data import Counted, Resident, Sealed, Split
from unlearn.errors import BadValue, Mismatch
from unlearn.methods.amnesiac_true import AmnesiacTrue
from unlearn.networks import seeded
from unlearn.ops.fast import Fast
from unlearn.ops.recipe import SGD, Function
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.subjects.recorded_classifier import RecordedClassifier

RECIPE = SGD(epochs=3, lr=0.1, batch_size=4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def net():
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )


def handle(n=24):
    x = torch.randn(n, 5, generator=rng(1))
    return Resident(Arrays(x, x[:, :3].argmax(1)))


def untrained(recipe=RECIPE, watched=None):
    return RecordedClassifier.of(Classifier(seeded(net, rng()), 3, recipe, net), watched)


def weights(subject):
    return parameters_to_vector(p.detach() for p in subject.module.net.parameters()).clone()


def trained(**rest):
    subject = untrained(**rest)
    before = weights(subject)
    subject.fit(handle(), Run(0))
    return subject, before


def lent(ids):
    whole = handle()
    kept = whole.rows[~torch.isin(whole.rows, ids)]
    return Split(
        forget=whole.take(ids), retain=whole.take(kept), validation=None, surrogate=None, statistics=None
    )


def test_subtracting_every_step_gives_the_initial_weights_back():
    subject, before = trained()
    assert (weights(subject) - before).abs().max() > 0.1
    subject.subtract(torch.arange(len(subject.module.deltas)))
    torch.testing.assert_close(weights(subject), before, rtol=0, atol=1e-6)
    assert len(subject.module.deltas) == 0


def test_training_is_what_it_is_without_a_record():
    subject, _ = trained()
    plain = Classifier(seeded(net, rng()), 3, RECIPE, net)
    plain.fit(handle(), Run(0))
    for name, tensor in plain.module.state_dict().items():
        assert torch.equal(subject.module.net.state_dict()[name], tensor), name


def test_the_record_is_that_of_a_plain_loop():
    subject, _ = trained(recipe=SGD(epochs=2, lr=0.1, batch_size=8, schedule="constant", weight_decay=0.01))
    plain, data, order = seeded(net, rng()).train(), handle(), Run(0).rng
    opt = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    step = 0
    for _ in range(2):
        for batch in data.batches(8, order):
            was = parameters_to_vector(p.detach() for p in plain.parameters()).clone()
            opt.zero_grad()
            cross_entropy(plain(batch.x), batch.y).backward()
            opt.step()
            change = parameters_to_vector(p.detach() for p in plain.parameters()) - was
            torch.testing.assert_close(subject.module.deltas[step], change, rtol=1e-4, atol=1e-6)
            assert torch.equal(subject.module.batches[step], batch.index)
            step += 1
    assert len(subject.module.deltas) == step == 6


def test_it_subtracts_the_steps_whose_batch_held_a_forgotten_example():
    subject, _ = trained()
    record, ids = copy.deepcopy(subject.module), torch.tensor([2, 7])
    touched = [k for k, row in enumerate(record.batches.tolist()) if {2, 7} & set(row)]
    assert 3 <= len(touched) <= 6  # each is in one batch of each of three epochs
    run = Run(0)
    data = lent(ids)
    forget = Counted(data.forget)
    sealed = Split(forget, Sealed("retain", "it"), None, None, None)
    done = AmnesiacTrue(epochs=0).unlearn(subject.clone(), sealed, run)
    expected = weights(subject).double() - record.deltas[touched].double().sum(0)
    torch.testing.assert_close(weights(done).double(), expected, rtol=0, atol=1e-7)
    assert done.module.batches.shape[0] == 18 - len(touched)
    assert not torch.isin(done.module.batches, ids).any()
    assert run.log["steps_subtracted"] == [len(touched)]
    assert run.log["record_megabytes"] == [subject.stored() / 1e6]
    assert forget.read == 2


def test_storage_is_one_copy_of_the_parameters_for_each_step():
    subject, before = trained()
    assert subject.stored() == 18 * len(before) * 4 + 18 * 4 * 8


def test_running_statistics_of_batch_norm_stay_as_they_were():
    subject, _ = trained()
    was = subject.module.net[1].running_mean.clone()
    done = AmnesiacTrue(epochs=0).unlearn(subject.clone(), lent(torch.tensor([2])), Run(0))
    assert torch.equal(done.module.net[1].running_mean, was) and was.any()


def test_afterwards_it_trains_on_the_retain_set():
    subject, _ = trained()
    data = lent(torch.tensor([2]))
    bare = AmnesiacTrue(epochs=0).unlearn(subject.clone(), data, Run(0))
    more = AmnesiacTrue(epochs=2, lr=0.05, batch_size=8).unlearn(subject.clone(), data, Run(0))
    plain, order = bare.module.net.train(), Run(0).rng
    opt = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for batch in data.retain.batches(8, order):
            opt.zero_grad()
            cross_entropy(plain(batch.x), batch.y).backward()
            opt.step()
    torch.testing.assert_close(weights(more), weights(bare), rtol=1e-4, atol=1e-6)
    assert AmnesiacTrue(epochs=0).reads() == {"forget.x"}


def test_only_batches_of_watched_examples_are_recorded():
    subject, _ = trained(watched=(2, 7))
    assert 3 <= len(subject.module.deltas) <= 6
    assert all({2, 7} & set(row) for row in subject.module.batches.tolist())
    all_, _ = trained()
    rows = [k for k, row in enumerate(all_.module.batches.tolist()) if {2, 7} & set(row)]
    assert torch.equal(subject.module.deltas, all_.module.deltas[rows])
    AmnesiacTrue(epochs=0).unlearn(subject.clone(), lent(torch.tensor([2, 7])), Run(0))
    with pytest.raises(BadValue, match=r"was in batches that were not recorded \(1 such\)"):
        AmnesiacTrue(epochs=0).unlearn(subject.clone(), lent(torch.tensor([5])), Run(0))


def test_an_example_that_it_never_saw_is_refused():
    subject, _ = trained()
    with pytest.raises(BadValue, match="example 900 is in no recorded batch"):
        subject.steps_with(torch.tensor([2, 900]))


def test_a_saved_record_is_read_into_a_new_model():
    subject, _ = trained()
    fresh = subject.fresh(rng(4))
    assert len(fresh.module.deltas) == 0
    fresh.module.load_state_dict(subject.module.state_dict())
    assert torch.equal(fresh.module.deltas, subject.module.deltas)
    assert torch.equal(fresh.module.batches, subject.module.batches)


@pytest.mark.parametrize(
    "recipe", [Fast(epochs=1, compiled=False), Function(lambda module, batches, seed: None, "none")]
)
def test_a_recipe_that_asks_for_no_loss_cannot_be_recorded(recipe):
    with pytest.raises(
        Mismatch, match=f"{type(recipe).__name__} trains without asking the subject for its loss"
    ):
        untrained(recipe).fit(handle(), Run(0))


def test_without_a_recipe_nothing_is_trained():
    with pytest.raises(Mismatch, match="no training recipe"):
        untrained(None).fit(handle(), Run(0))
