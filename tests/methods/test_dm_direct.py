"""DM-direct: what it serves by plain loops, what stays, and that it comes back from its tensors."""

import pytest
import torch
from pools import C, M, by_loops, data, net, normed
from torch.nn.functional import cross_entropy

from unlearn.data import Batch
from unlearn.methods.dm_direct import DMDirect
from unlearn.patch import changed
from unlearn.runtime import Run
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier


def asked(n=5):
    """Examples that no model was trained on."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(77))
    return Batch(x, torch.arange(n) % C, torch.arange(n))


@pytest.fixture
def served():
    split, _ = data()
    return DMDirect(models=M, scale=0.7).unlearn(Classifier(net(0), C), split, Run())


def test_any_example_is_answered_with_the_prediction(served):
    batch = asked()
    wanted = torch.tensor([by_loops(v, 0.7) for v in batch.x])
    torch.testing.assert_close(served.outputs(batch), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        served.loss(batch), cross_entropy(wanted, batch.y, reduction="none"), rtol=1e-4, atol=1e-5
    )
    features, logits = served.features_and_outputs(batch)
    assert torch.equal(features, batch.x), "of the original, whose only layer is its last"
    assert torch.equal(logits, served.outputs(batch)) and served.classes == C


def test_relabelled_losses_are_of_wrong_classes(served):
    batch = asked(40)
    losses = torch.stack(
        [cross_entropy(served.outputs(batch), torch.full((40,), c), reduction="none") for c in range(C)]
    )
    found = served.relabeled_loss(batch, torch.Generator().manual_seed(0))
    near = (losses - found).abs().argmin(0)
    assert (near != batch.y).all() and near.unique().tolist() == [0, 1, 2]


def test_not_one_weight_changes(served):
    for name, value in net(0).state_dict().items():
        assert torch.equal(served.module.state_dict()[f"original.{name}"], value)
    assert DMDirect().beside() and DMDirect.deterministic


def test_it_comes_back_from_what_its_module_holds(served):
    """As the bench keeps it: tensors that the original lacks; and once more from itself, as in a second request."""
    original, batch = Classifier(net(0), C), asked()
    kept = changed(original.module.state_dict(), served.module.state_dict())
    method = DMDirect(models=M, scale=0.7)
    again = method.restore(original.clone(), kept)
    assert torch.equal(again.outputs(batch), served.outputs(batch))
    twice = method.unlearn(again, data()[0], Run())
    kept = changed(served.module.state_dict(), twice.module.state_dict())
    assert torch.equal(method.restore(served.clone(), kept).outputs(batch), twice.outputs(batch))
    assert not torch.equal(twice.outputs(batch), served.outputs(batch))


def test_a_clone_has_weights_of_its_own(served):
    batch, other = asked(), served.clone()
    before = served.outputs(batch)
    assert torch.equal(other.outputs(batch), before)
    with torch.no_grad():
        for p in other.module.parameters():
            p.add_(1.0)
    assert torch.equal(served.outputs(batch), before) and not torch.equal(other.outputs(batch), before)


def test_it_reads_the_forget_set_once_and_no_other(served):
    split, _ = data()
    DMDirect(models=M).unlearn(Classifier(net(0), C), split, Run())
    assert (split.forget.read, split.retain.read) == (3, 0) and split.pool.read > 0
    assert DMDirect().reads() == {"forget.x", "pool"} and DMDirect(models=8).wants() == ("half-in", 8)


def test_original_and_models_answer_in_the_mode_of_what_is_served():
    """What is served is asked in evaluation mode, like any model, and hands that on to all that it rests on."""
    split, _ = data(make=normed)
    served = DMDirect(models=M, scale=0.7).unlearn(Classifier(normed(0), C), split, Run())
    batch = asked()
    with mode(served.module, train=False), torch.no_grad():
        said = served.outputs(batch)
    wanted = [by_loops(v, 0.7, make=lambda seed: normed(seed, train=False)) for v in batch.x]
    torch.testing.assert_close(said, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_published_settings():
    paper = DMDirect.preset("paper")
    assert (paper.models, paper.scale, paper.attribution) == (1000, 1.0, "difference")
