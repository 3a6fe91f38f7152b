import pytest
import torch
from one_weight import split
from small_net import build, classifier, images, same
from torch.nn.functional import cross_entropy

from unlearn.errors import Mismatch
from unlearn.methods.retrain import Retrain
from unlearn.runtime import Run


def test_it_is_bit_equal_to_ordinary_training_on_the_subset():
    retain = images(20)
    done = Retrain().unlearn(classifier(), split(retain=retain), Run(7))

    rng = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(0, 2**31 - 1, (1,), generator=rng)))
        net = build()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 0.05, total_steps=2 * 3 + 1)
    x, y = retain.source.x, retain.source.y
    for _ in range(2):
        for rows in torch.randperm(20, generator=rng).split(8):
            opt.zero_grad()
            cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
            plan.step()
    assert same(done.module, net)


def test_it_keeps_nothing_of_the_model_it_was_given():
    a = Retrain().unlearn(classifier(seed=0), split(retain=images(20)), Run(1))
    b = Retrain().unlearn(classifier(seed=5), split(retain=images(20)), Run(1))
    assert same(a.module, b.module)


def test_an_unknown_recipe_is_refused():
    subject = classifier()
    subject.recipe = None
    with pytest.raises(Mismatch, match="no training recipe"):
        Retrain().unlearn(subject, split(retain=images(20)), Run(0))
