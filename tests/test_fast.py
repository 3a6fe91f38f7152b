"""The fast recipe: against a plain loop, side by side, and as an ordinary scenario."""

import copy
import itertools
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_stacked import examples, net
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu

from unlearn.crew import Job, measured
from unlearn.data import Resident
from unlearn.errors import BadValue, OutOfTime
from unlearn.networks import resnet8, resnet9
from unlearn.ops import fast
from unlearn.ops.fast import Fast, fastest, smoothed_loss
from unlearn.ops.steps import accuracy
from unlearn.pool import Pool
from unlearn.runtime import Run
from unlearn.scenario import Seeds, parse
from unlearn.sources import Arrays, Pixels
from unlearn.store import Store
from unlearn.subjects.classifier import Classifier

CPU = torch.device("cpu")


# ---- the recipe


def triangle(steps, warmup):
    """Shares of the peak rate: up from 0 at step 0 to 1, down to 0 at step `steps` + 1, which are never taken."""
    at = np.arange(1, steps + 1) / (steps + 1)
    return np.interp(at, [0, warmup, 1], [0, 1, 0])


def by_hand(module, sets, recipe, rng):
    """The recipe spelled out: Nesterov, decay of matrices alone, smoothed targets, full batches, means at the end."""
    size = min(recipe.batch_size, len(sets))
    steps = len(sets) // size
    velocity = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    rates = iter(recipe.lr * size / 128 * triangle(recipe.epochs * steps, recipe.warmup))
    for _ in range(recipe.epochs):
        for batch in itertools.islice(sets.batches(size, rng, augment=recipe.augment), steps):
            logp = module(batch.x).log_softmax(1)
            true = logp.gather(1, batch.y[:, None])[:, 0]
            s, lr = recipe.smoothing, next(rates)
            loss = -((1 - s) * true + s * logp.mean(1)).mean()
            grads = torch.autograd.grad(loss, list(module.parameters()))
            with torch.no_grad():
                for (n, p), g in zip(module.named_parameters(), grads, strict=True):
                    d = g + (recipe.weight_decay * p if p.ndim > 1 else 0)
                    velocity[n] = recipe.momentum * velocity[n] + d
                    p -= lr * (d + recipe.momentum * velocity[n])
    norm, seen = module[1], []
    with torch.no_grad():
        for batch in itertools.islice(sets.batches(size, rng), min(steps, fast.CLEAN)):
            h = module[0](batch.x)
            seen.append((h.mean(0), h.var(0)))
        norm.running_mean.copy_(torch.stack([m for m, _ in seen]).mean(0))
        norm.running_var.copy_(torch.stack([v for _, v in seen]).mean(0))
        norm.num_batches_tracked.fill_(len(seen))


@pytest.mark.parametrize("size", [7, 512])
def test_it_is_what_it_says(size):
    recipe = Fast(epochs=3, batch_size=size, lr=2.0, weight_decay=0.1, smoothing=0.3, warmup=0.4)
    ours, plain = Classifier(net("rows", 0), 3), net("rows", 0).train()
    recipe.fit(ours, examples("rows", 24, 1), Run(5))
    by_hand(plain, examples("rows", 24, 1), recipe, torch.Generator().manual_seed(5))
    for a, b in zip(ours.module.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_rates_rise_and_fall_in_straight_lines():
    assert [Fast(warmup=0.5)._share(3, k) for k in range(3)] == [0.5, 1.0, 0.5]
    assert [Fast(warmup=0.2)._share(4, k) for k in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_incomplete_batches_are_left_out():
    assert [Fast(batch_size=8).steps(n) for n in (3, 8, 15, 16, 17)] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(("name", "epochs"), [("rows", 3), ("resnet8", 3), ("resnet20", 2), ("resnet9", 1)])
def test_networks_become_side_by_side_what_they_would_alone(name, epochs, monkeypatch):
    monkeypatch.setitem(net.__globals__["SHAPES"], "resnet9", (3, 8, 8))
    recipe = Fast(epochs=epochs, batch_size=7, lr=0.5)
    alone = [Classifier(net(name, k), 3) for k in range(2)]
    together = [Classifier(copy.deepcopy(s.module), 3) for s in alone]
    sets = [examples(name, 20, k) for k in range(2)]
    for k, s in enumerate(alone):
        recipe.fit(s, sets[k], Run(k))
    recipe.fit_together(together, sets, [Run(k) for k in range(2)])
    for a, b in zip(alone, together, strict=True):
        for p, q in zip(a.module.state_dict().values(), b.module.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
            assert p.stride() == q.stride(), "weights keep their memory format"


def test_sets_of_two_sizes_do_not_go_side_by_side():
    subjects = [Classifier(net("rows", k), 3) for k in range(2)]
    with pytest.raises(BadValue, match="need training sets of one size"):
        Fast().fit_together(subjects, [examples("rows", 9, 0), examples("rows", 8, 1)], [Run(0), Run(1)])


def test_a_deadline_ends_it_and_leaves_the_model_as_it_was():
    subject = Classifier(net("rows", 0), 3)
    with pytest.raises(OutOfTime, match="the time that was given is over"):
        Fast(epochs=2).fit(subject, examples("rows", 9, 0), Run(deadline=time.monotonic() - 1))
    assert all(
        torch.equal(p, q)
        for p, q in zip(subject.module.parameters(), net("rows", 0).parameters(), strict=True)
    )


def test_it_learns_digits_and_repeats_bit_for_bit():
    """In evaluation mode, so that the statistics of batch norm are put to the test."""
    found = load_digits()
    x = torch.tensor(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
    whole = Resident(Arrays(x, torch.tensor(found.target)), Pixels((0.305,), (0.376,), pad=1))
    train, test = whole.take(torch.arange(1200)), whole.take(torch.arange(1200, 1797))
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        subject = Classifier(resnet8(), 10)
        Fast(epochs=5, batch_size=64).fit(subject, train, Run(1))
        made.append(subject)
    assert accuracy(made[0], test) > 0.9
    a, b = (s.module.state_dict() for s in made)
    assert all(torch.equal(p, b[n]) for n, p in a.items())


# ---- the compiled step


def test_one_compiled_step_serves_every_model():
    step = torch.compile(smoothed_loss, backend="eager", dynamic=False, fullgraph=True)
    y = torch.tensor([[0], [2], [1]])
    for k in range(3):
        module, x = net("resnet8", k), torch.randn(3, 1, 8, 8, dtype=torch.float64)
        with torch.compiler.set_stance("fail_on_recompile" if k else "default"):
            found = step(module, x, y, 0.2)
        assert found.item() == pytest.approx(smoothed_loss(module, x, y, 0.2).item(), rel=1e-12)


def test_where_nothing_can_be_compiled_steps_are_as_they_are(monkeypatch):
    assert fastest("cpu") is smoothed_loss

    def broken(*_, **__):
        raise RuntimeError("no working compiler")

    monkeypatch.setattr(torch, "compile", broken)
    assert fastest.__wrapped__("cuda") is smoothed_loss


# ---- the network


def test_resnet9_is_eight_convolutions_and_a_head():
    torch.manual_seed(0)
    module, x = resnet9(3, 10).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert sum(p.numel() for p in module.parameters()) == 6_573_120
    state = module.state_dict()
    for name in state:
        if name.endswith(("running_mean", "running_var", "bias")):
            state[name].uniform_(0.5, 1.5)

    def unit(h, at, halve=False):
        norm = 2 if halve else 1
        h = conv2d(h, state[f"{at}.0.weight"], padding=1)
        h = max_pool2d(h, 2) if halve else h
        of = [state[f"{at}.{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return relu(batch_norm(h, *of))

    h = unit(unit(x, "prep"), "layer1.0", halve=True)
    h = h + unit(unit(h, "layer1.1.res1"), "layer1.1.res2")
    h = unit(unit(h, "layer2", halve=True), "layer3.0", halve=True)
    h = h + unit(unit(h, "layer3.1.res1"), "layer3.1.res2")
    wanted = max_pool2d(h, 4)[:, :, 0, 0] @ state["linear.weight"].T * 0.125
    torch.testing.assert_close(module(x), wanted, rtol=1e-10, atol=1e-12)


# ---- the scenario


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """300 images of ten classes, each class of its own brightness."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, n in (("train", 200), ("test", 100)):
        y = np.arange(n) % 10
        x = rng.integers(0, 30, (n, 32, 32, 3)) + 22 * y[:, None, None, None]
        np.save(folder / f"{split}_images.npy", x.astype(np.uint8))
        np.save(folder / f"{split}_labels.npy", y.astype(np.int64))
    return folder


def pool_of(data, path, extra=""):
    return Pool(parse(f"cifar10/class=3,data={data},network=resnet8,epochs=2{extra}"), Store(path), CPU)


def test_it_is_an_ordinary_scenario(data, tmp_path):
    pool = pool_of(data, tmp_path, ",training=fast,batch=32,lr=0.2")
    trial = pool.trial(Seeds(), oracles=2)
    assert len(trial.oracles) == 2 and len(set(trial.oracle_bases)) == 2
    told = trial.facts["training"]
    assert (told["recipe"], told["epochs"], told["batch_size"], told["lr"]) == ("fast", 2, 32, 0.2)
    assert ",training=fast" in str(pool.scenario)


def test_recipes_are_told_apart_and_the_old_one_is_as_it_was(data, tmp_path):
    keep = torch.ones(180, dtype=torch.bool)
    fast_, sgd = (pool_of(data, tmp_path, e).recipe(keep, 0)["recipe"] for e in (",training=fast", ""))
    assert fast_ == Fast(epochs=2).describe() and fast_["batch_size"] == 512
    assert sgd == {
        "recipe": "sgd", "epochs": 2, "lr": 0.1, "batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4,
        "schedule": "onecycle", "augment": True, "last": "half",
    }  # fmt: skip


def test_the_ways_to_train_a_pool_are_measured(data, tmp_path):
    keep = torch.arange(180) % 2 == 0
    jobs = [Job(keep, 100 + k) for k in range(3)]
    seconds = measured(pool_of(data, tmp_path, ",training=fast,batch=8"), jobs)
    assert {"alone", "side-by-side"} <= seconds.keys() and min(seconds.values()) > 0
