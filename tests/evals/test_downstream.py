"""The second data set: patches of two photographs in the form of the model's own inputs, and what is refused."""

import pytest
import torch

from unlearn.errors import BadValue, UnknownName
from unlearn.evals.downstream import Downstream, split
from unlearn.ops.photos import photo_patches, which_photo
from unlearn.testing.metric_checks import evidence


def test_patches_are_labelled_by_their_photograph():
    task = which_photo(40, (3, 8, 6), seed=2)
    assert task.x.shape == (40, 3, 8, 6) and task.x.dtype == torch.uint8
    assert task.y.tolist() == [0, 1] * 20
    assert torch.equal(task.x, photo_patches(40, 8, 3, seed=2).x[..., :6])
    assert not torch.equal(which_photo(40, (3, 8, 8), 2).x, photo_patches(40, 8, 3).x), (
        "surrogates are others"
    )
    red, blue = (task.x[:, c].double().mean((1, 2)) for c in (0, 2))
    first = task.y == 0  # the palace under a grey sky, the flower on green
    assert ((red - blue)[~first].mean() - (red - blue)[first].mean()).abs() > 20


def test_a_fifth_is_answered_and_nothing_is_learnt_from_twice():
    learn, answer = split(50)
    assert len(learn) == 40 and sorted([*learn.tolist(), *answer.tolist()]) == list(range(50))
    assert split(50)[1].tolist() == answer.tolist()


def test_floats_get_the_mean_and_spread_of_the_models_own_inputs():
    ev = evidence("conv")
    own = ev.handles["test"].source.x
    task = Downstream()._task(ev)
    assert task.x.dtype == own.dtype and task.x.shape[1:] == own.shape[1:]
    used = own[ev.handles["test"].rows]
    assert float(task.x.double().mean()) == pytest.approx(float(used.double().mean()), abs=1e-6)
    assert float(task.x.double().std()) == pytest.approx(float(used.double().std()), rel=1e-6)


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(BadValue) as caught:
        Downstream(other="digits").score_of(evidence("conv"))
    assert str(caught.value) == (
        "downstream: inputs of digits are uint8 of shape (1, 8, 8), those of the model float32 of shape (1, 6, 6); "
        "name a scenario with such"
    )
    with pytest.raises(UnknownName, match="digits"):
        Downstream(other="digit").score_of(evidence("conv"))
    [refused] = Downstream().score_of(evidence("mlp"))
    assert refused.value is None and "the inputs here have shape" in refused.note
