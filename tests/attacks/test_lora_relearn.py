"""The adapter against training B A inside the weights themselves."""

import copy

import torch
from tiny_case import IDS, case, draws, loss
from torch.func import functional_call

from unlearn.attacks.lora_relearn import LoraRelearn
from unlearn.data import Batch
from unlearn.testing.runs import shell
from unlearn.testing.tiny import same, tensors

SMALL = {"images": 4, "iterations": 4, "rank": 2, "tries": 1, "batch_size": 3, "lr": 0.05}


def predictions(case):
    """What the victim predicts in one fixed place."""
    y, t, z, _ = next(draws(case, 5))
    with torch.no_grad():
        return case.victim.predict(z, t, case.victim.encode(Batch(z, y, t)))


def relearned(case, **fields):
    """Predictions at each time that prompts are drawn."""
    return [predictions(case) for _ in LoraRelearn(**{**SMALL, **fields}).attempts(case)]


def reference(one, steps):
    """The same with the product of both factors added to each weight of the cross-attention, by name."""
    model = copy.deepcopy(one.victim)
    named = {n: p for n, p in model.denoiser.named_parameters() if ".attn2.to_" in n and p.dim() == 2}
    rng = torch.Generator().manual_seed(one.run.seed)
    down, up = {}, {}
    for n, w in named.items():
        bound = 1 / w.shape[1] ** 0.5
        down[n] = (torch.rand(2, w.shape[1], generator=rng) * 2 - 1).mul(bound).double().requires_grad_()
        up[n] = torch.zeros(w.shape[0], 2, dtype=torch.float64, requires_grad=True)
    opt = torch.optim.Adam([*down.values(), *up.values()], SMALL["lr"])

    def predict(z, t, y):
        merged = {n: w + up[n] @ down[n] for n, w in named.items()}
        cond = model.encode(Batch(z, y, t))
        return functional_call(model.denoiser, merged, (z, t), {"encoder_hidden_states": cond}).sample

    one.run.rng.set_state(rng.get_state())
    batch = next(one.real.batches(4))
    for _ in range(steps):
        rows = torch.randint(0, 4, (3,), generator=rng)
        t = torch.randint(0, 1000, (3,), generator=rng)
        e = torch.randn(3, 1, 8, 8, generator=rng).double()
        z, goal = model.noised(batch.x[rows].double(), t, e)
        opt.zero_grad()
        (predict(z, t, batch.y[rows]) - goal).square().mean().backward()
        opt.step()
    y, t, z, _ = next(draws(one, 5))
    return predict(z, t, y).detach()


def test_adapters_are_what_training_their_product_in_the_weights_would_give():
    for steps in (1, 3):
        [found] = relearned(case(), iterations=steps)
        assert torch.allclose(found, reference(case(), steps), rtol=1e-8, atol=1e-9)


def test_no_weight_changes_and_no_hook_stays():
    one = case()
    before, flags, plain = tensors(one.victim), shell(one.victim.module), predictions(one)
    [adapted] = relearned(one)
    assert not torch.allclose(adapted, plain, atol=1e-4), "while it is drawn the adapter acts"
    assert same(tensors(one.victim), before)
    assert shell(one.victim.module) == flags
    assert predictions(one).equal(plain)


def test_relearning_lowers_the_loss_on_images_of_the_concept():
    one = case()
    before = loss(one.victim, one)
    for _ in LoraRelearn(**{**SMALL, "iterations": 40, "batch_size": 8, "lr": 0.01}).attempts(one):
        assert loss(one.victim, one) < before - 1e-3


def test_prompts_are_drawn_as_often_as_asked_and_no_more_than_are_left():
    one, tried = case(), []
    for rows, cond in LoraRelearn(**{**SMALL, "tries": 2}).attempts(one):
        assert cond.equal(one.asked(IDS[rows]))
        tried.append(rows.tolist())
        one.hit[rows[1:]] = True
    assert tried == [[0, 1, 2], [0]]


def test_a_seed_decides_everything():
    one, two, other = (relearned(case(seed=s))[0] for s in (0, 0, 1))
    assert one.equal(two)
    assert not one.equal(other)
