"""What must hold on a CUDA device as well; skipped without one."""

import importlib.util

import pytest
import torch
from sklearn.datasets import load_digits

from unlearn import api
from unlearn.data import Resident
from unlearn.networks import resnet9
from unlearn.ops.fast import Fast, fastest, smoothed_loss
from unlearn.ops.steps import accuracy
from unlearn.pool import Pool
from unlearn.registry import attacks, fitting, methods, metrics
from unlearn.runtime import Run, seeded_globals
from unlearn.scenario import Seeds, parse
from unlearn.sources import Arrays, Pixels
from unlearn.subjects.classifier import Classifier

pytestmark = pytest.mark.gpu
SHORT = "digits/class=3,epochs=3"
TRAINED = [
    n for n in fitting("classifier") if n != "scar-self"
]  # refuses originals that take no surrogate for the class


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return api.bench(tmp_path_factory.mktemp("store"), "cuda")


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_runs_and_repeats_bit_for_bit(bench, name):
    pool = Pool(parse(SHORT), bench.store, bench.device)
    ((report, done),) = bench.run(pool, methods.get(name)(), [metrics.get("accuracy")()], Seeds())
    assert next(done.module.parameters()).device.type == "cuda"
    _, same = api.replay(report, api.bench(bench.store.root, "cuda", fresh=True))
    assert same


@pytest.mark.parametrize("name", [n for n in fitting("text-to-image") if n not in ("given", "retrain")])
def test_every_eraser_runs_and_draws(bench, name):
    pool = Pool(parse("ink/concept=three,drawings=1,steps=5"), bench.store, bench.device)
    ((report, done),) = bench.run(pool, methods.get(name)(), [metrics.get("erasure")()], Seeds())
    assert next(done.module.parameters()).device.type == "cuda"
    assert report.score("erasure/ua").value is not None and report.score("erasure/ua").reference is not None


def test_every_attack_runs(bench):
    pool = Pool(parse("ink/concept=three,drawings=1,steps=5"), bench.store, bench.device)
    tried = [attacks.get(name)() for name in attacks.names()]
    ((report, _),) = bench.run(pool, methods.get("uce")(), tried, Seeds())
    assert all(report.score(f"attack/{a.name}/post").value is not None for a in tried)


def test_batches_are_made_on_the_device():
    x = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    handle = Resident(
        Arrays(x, torch.arange(10)), Pixels((0.5,) * 3, (0.5,) * 3, pad=1, flip=True), device="cuda"
    )
    rng = torch.Generator("cuda").manual_seed(0)
    batch = next(handle.batches(4, rng, augment=True))
    assert {t.device.type for t in (batch.x, batch.y, batch.index)} == {"cuda"}


@pytest.fixture(scope="module")
def scans():
    """1,200 scans of digits to train on and 597 to test, as bytes on the device."""
    found = load_digits()
    x = torch.tensor(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
    whole = Resident(Arrays(x, torch.tensor(found.target)), Pixels((0.305,), (0.376,), pad=1), device="cuda")
    return whole.take(torch.arange(1200)), whole.take(torch.arange(1200, 1797))


def fast_digits(seed):
    torch.manual_seed(seed)
    return Classifier(resnet9(1, 10).to("cuda"), 10)


def test_the_fast_recipe_learns_repeats_and_is_compiled_once(scans):
    """In bfloat16 and, where Triton is there, compiled: another model of the pool compiles nothing anew."""
    train, test = scans
    recipe, cuda, made = Fast(epochs=6, batch_size=64), torch.device("cuda"), []
    if importlib.util.find_spec("triton") is not None:
        assert fastest("cuda") is not smoothed_loss, "a compiler is here, but it does not work"
    for k, seed in enumerate((0, 0, 1)):
        subject = fast_digits(seed)
        before = [p.stride() for p in subject.module.parameters()]
        with torch.compiler.set_stance("fail_on_recompile" if k else "default"), seeded_globals(seed, cuda):
            recipe.fit(subject, train, Run(seed, cuda))
        assert accuracy(subject, test) > 0.95
        assert [p.stride() for p in subject.module.parameters()] == before
        assert {p.dtype for p in subject.module.parameters()} == {torch.float32}
        made.append(subject.module.state_dict())
    first, same, other = made
    assert all(torch.equal(p, same[n]) for n, p in first.items())
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_a_compiled_step_in_half_precision_is_near_the_plain_one(scans):
    batch = next(scans[0].batches(256))
    module, y = fast_digits(0).module, batch.y[:, None]
    found = []
    for loss in (fastest("cuda"), smoothed_loss):
        module.zero_grad()
        value = loss(module, batch.x, y, 0.2)
        value.backward()
        found.append((value.item(), module.linear.weight.grad.clone()))
    x = batch.x.double()
    module.double().zero_grad()
    exact = smoothed_loss(module, x, y, 0.2)
    exact.backward()
    for value, grad in found:
        assert value == pytest.approx(exact.item(), rel=0.02)
        cosine = torch.cosine_similarity(grad.flatten().double(), module.linear.weight.grad.flatten(), dim=0)
        assert cosine > 0.99


def test_the_fast_recipe_trains_side_by_side(scans):
    train, test = scans
    cuda, subjects = torch.device("cuda"), [fast_digits(k) for k in range(3)]
    Fast(epochs=6, batch_size=64).fit_together(subjects, [train] * 3, [Run(k, cuda) for k in range(3)])
    assert min(accuracy(s, test) for s in subjects) > 0.95


def test_importance_agrees_with_the_cpu(bench):
    from unlearn.ops.importance import squared_example_gradient

    pool = Pool(parse(SHORT), bench.store, bench.device)
    trial = pool.trial(Seeds())
    ours = squared_example_gradient(trial.original, trial.handles["forget"], 64)
    cpu = trial.original.clone()
    cpu.module.cpu()
    cpu_pool = Pool(parse(SHORT), bench.store, torch.device("cpu"))
    theirs = squared_example_gradient(
        cpu,
        cpu_pool.shelf.of(
            cpu_pool.material.train, (cpu_pool.material.train.labels.y == 3).nonzero().flatten()
        ),
        64,
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-6)
