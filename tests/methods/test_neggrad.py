import math

import pytest
import torch
from one_weight import OneWeight, rows, split
from small_net import classifier, images

from unlearn.methods.neggrad import NegGrad
from unlearn.runtime import Run
from unlearn.subject import mode


def test_ascent_with_a_ceiling_by_hand():
    """Losses 1 and 2 have mean 1.5, so c = 3. Steps: w = 1 + 1.5 (losses 2.5, 5), + 0.5 (3, 6), then none."""
    run = Run()
    method = NegGrad(lr=1.0, epochs=9, momentum=0.0, weight_decay=0.0, growth=2.0)
    done = method.unlearn(OneWeight(1.0), split(forget=rows(1.0, 2.0)), run)
    assert done.w == [3.0]
    assert run.log["below_ceiling"] == [1.0, 0.5, 0.0]


def test_without_a_ceiling_it_climbs_to_the_last_epoch():
    """1 + 4 * 1.5."""
    method = NegGrad(lr=1.0, epochs=4, momentum=0.0, weight_decay=0.0, ceiling=0.0)
    assert method.unlearn(OneWeight(1.0), split(forget=rows(1.0, 2.0)), Run()).w == [7.0]


def test_a_classifier_stops_near_the_loss_of_a_uniform_guess():
    subject, forget = classifier(), images(12)
    subject.module[-1].bias.data += torch.nn.functional.one_hot(torch.tensor(1), 3)
    only = forget.take((forget.y == 1).nonzero().flatten())
    method = NegGrad(lr=0.01, epochs=200, momentum=0.0, weight_decay=0.0)
    run = Run()
    done = method.unlearn(subject, split(forget=only), run)
    with mode(done.module, train=True), torch.no_grad():
        loss = done.loss(next(only.batches(64)))
    assert run.log["below_ceiling"][0] > 0
    assert run.log["below_ceiling"][-1] == 0
    assert loss.min() >= math.log(3)
    assert loss.min() < math.log(3) + 0.2


def test_the_published_setting_has_no_ceiling():
    assert NegGrad.preset("paper") == NegGrad(epochs=5, lr=1e-4, batch_size=256, ceiling=0.0)
    assert NegGrad().ceiling == pytest.approx(1.0)
