"""What must hold on a CUDA device as well; skipped without one."""

import pytest
import torch

from unlearn import api
from unlearn.data import Resident
from unlearn.pool import Pool
from unlearn.registry import attacks, fitting, methods, metrics
from unlearn.scenario import Seeds, parse
from unlearn.sources import Arrays, Pixels

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
