"""Somebody else's weights: read by name, refused where they are another model's or changed meanwhile."""

import pytest
import torch

from unlearn.errors import BadWeights
from unlearn.methods.given import Given, weights_for
from unlearn.patch import save_tensors, weights_hash
from unlearn.runtime import Run
from unlearn.testing.tiny import same, specimen, tensors


@pytest.fixture
def made(tmp_path):
    """The tiny model, and a file with the weights of a changed copy."""
    subject = specimen("mlp").copy().subject
    other = subject.clone()
    with torch.no_grad():
        for p in other.module.parameters():
            p.add_(1)
    path = tmp_path / "weights.safetensors"
    save_tensors(path, other.module.state_dict())
    return subject, other, path


def unlearn(subject, **fields):
    return Given(**fields).unlearn(subject.clone(), None, Run(0))


def test_the_weights_are_those_of_the_file(made):
    subject, other, path = made
    assert same(tensors(unlearn(subject, weights=str(path))), tensors(other))
    assert same(tensors(unlearn(subject)), tensors(subject)), "without any, the original's stay"


def test_weights_that_changed_meanwhile_are_refused(made):
    subject, other, path = made
    sha = weights_hash(weights_for(subject.module, str(path)))
    assert same(tensors(unlearn(subject, weights=str(path), sha256=sha)), tensors(other))
    save_tensors(path, subject.module.state_dict())
    with pytest.raises(BadWeights, match="they changed"):
        unlearn(subject, weights=str(path), sha256=sha)


def test_weights_of_another_model_are_refused(made, tmp_path):
    subject, other, _ = made
    state = other.module.state_dict()
    first = next(iter(state))
    for bad in ({n: t for n, t in state.items() if n != first}, {**state, first: state[first][:1]}):
        path = tmp_path / "bad.safetensors"
        save_tensors(path, bad)
        with pytest.raises(BadWeights, match=f"has no {first} of shape"):
            unlearn(subject, weights=str(path))
    with pytest.raises(BadWeights, match="no model at"):
        unlearn(subject, weights=str(tmp_path / "absent"))
