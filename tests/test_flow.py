"""From a request to a report: what the bench promises, on the embedded scenario."""

import pytest
import torch

import unlearn
from unlearn import api
from unlearn.errors import Mismatch, SealedError
from unlearn.method import Method
from unlearn.patch import load_tensors, save_tensors, weights_hash
from unlearn.pool import Pool
from unlearn.registry import methods, metrics
from unlearn.runtime import Run
from unlearn.scenario import Seeds, from_recipe, parse
from unlearn.store import address
from unlearn.subject import Denoises, HasLoss

pytestmark = pytest.mark.xdist_group("flow")  # one store serves the file
SHORT = "digits/class=3,epochs=3"
SEEDS = Seeds()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return api.bench(tmp_path_factory.mktemp("store"), "cpu")


def go(bench, name, scenario=SHORT, seeds=SEEDS, chosen=("accuracy",), oracles=1, **values):
    pool = Pool(parse(scenario), bench.store, bench.device)
    return bench.run(pool, methods.get(name)(**values), [metrics.get(m)() for m in chosen], seeds, oracles)


def test_retraining_forgets_a_class_and_nothing_else(bench):
    ((report, _),) = go(bench, "retrain")
    forget, kept = report.score("accuracy/forget"), report.score("accuracy/test_retain")
    assert forget.original > 0.5
    assert forget.value == forget.reference == 0
    assert kept.value > 0.5


def test_a_second_method_trains_nothing_and_passes_nothing_again(bench, monkeypatch):
    go(bench, "none")
    from unlearn.subjects.classifier import Classifier

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Classifier, "fit", refuse)
    seen = []
    whole = api.Bench.evidence

    def spy(self, *args):
        seen.append(whole(self, *args))
        return seen[-1]

    monkeypatch.setattr(api.Bench, "evidence", spy)
    go(bench, "ssd", alpha=4.0)
    assert {who for who, _ in seen[0].passes} == {"unlearned"}


def test_the_same_run_is_read_back(bench):
    ((first, a),) = go(bench, "neggrad")
    ((again, b),) = go(bench, "neggrad")
    assert again == first
    assert (
        weights_hash(a.module.state_dict())
        == weights_hash(b.module.state_dict())
        == first.weights["unlearned"]
    )


def test_scores_follow_from_the_stored_arrays(bench):
    ((report, _),) = go(bench, "ssd", chosen=("accuracy", "mia", "aus", "js"))
    from unlearn.evals.accuracy import accuracy

    entries = [e for e in bench.store.entries("outputs") if e.recipe["model"] == report.recipe["unlearned"]]
    stored = [load_tensors(e.path / "arrays.safetensors") for e in entries]
    material = parse(SHORT).material()
    y = material.train.labels.y
    rows = material.train.rows
    forget = set(rows[y == 3].tolist())
    (found,) = [a for a in stored if set(a["rows"].tolist()) == forget]
    assert accuracy(found["outputs"].argmax(1) == 3) == report.score("accuracy/forget").value


def test_recipes_rebuild_the_run(bench):
    ((report, _),) = go(bench, "salun", epochs=1)
    scenario = from_recipe(report.recipe["scenario"])
    assert scenario == parse(SHORT)
    again, same = api.replay(report, api.bench(bench.store.root, "cpu", fresh=True))
    assert same
    assert again.id == report.id == address(report.recipe)


def test_seeds_are_kept_apart(bench):
    text = "digits/random=0.1,epochs=1"
    pool = Pool(parse(text), bench.store, bench.device)
    base = pool.trial(Seeds(0, 0, 0))
    draw, train, method = (pool.trial(s) for s in (Seeds(0, 1, 0), Seeds(1, 0, 0), Seeds(0, 0, 1)))
    assert draw.base == base.base != train.base
    assert not torch.equal(draw.handles["forget"].rows, base.handles["forget"].rows)
    assert torch.equal(train.handles["forget"].rows, base.handles["forget"].rows)
    assert (method.base, method.oracle_bases) == (base.base, base.oracle_bases)


def test_held_out_sets_do_not_overlap():
    material = parse("digits").material()
    parts = [set(p.rows.tolist()) for p in (material.train, material.validation, material.fit, material.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_requests_in_sequence_build_on_each_other(bench):
    results = go(bench, "ssd", "digits/class=3+class=5,epochs=2")
    first, second = (r for r, _ in results)
    assert second.recipe["base"] == first.recipe["unlearned"]
    assert second.weights["original"] == first.weights["unlearned"]
    assert second.request["removed"] == ["3", "5"]
    assert second.request["sizes"]["forgotten"] == first.request["sizes"]["forget"]
    assert second.recipe["oracles"] != first.recipe["oracles"]


def test_two_oracles_give_floors(bench):
    ((report, _),) = go(bench, "none", chosen=("accuracy", "js"), oracles=2)
    assert report.score("accuracy/retain").floor is not None
    js = report.score("js/forget")
    assert 0 < js.floor < js.value


def test_the_do_nothing_row_says_so(bench):
    ((report, _),) = go(bench, "none")
    assert any("did nothing" in n for n in report.notes)
    assert report.costs.changed == 0


def test_costs_count_what_was_read(bench):
    ((report, _),) = go(bench, "finetune", epochs=2)
    assert report.costs.read == {"retain": 2 * report.request["sizes"]["retain"]}
    assert report.costs.oracle_seconds > 0


def test_undeclared_data_are_sealed(bench):
    class Peeks(Method[HasLoss]):
        name = "peeks"
        uses = frozenset({"forget"})

        def unlearn(self, subject: HasLoss, data, run) -> HasLoss:
            next(data.retain.batches(2))
            return subject

    pool = Pool(parse(SHORT), bench.store, bench.device)
    with pytest.raises(SealedError, match="peeks read 'retain' but does not declare it"):
        bench.execute(pool.trial(Seeds()), Peeks(), [])


def test_a_method_that_does_not_fit_is_refused_with_those_that_do(bench):
    class NeedsDiffusion(Method[Denoises]):
        name = "needs-diffusion"

        def unlearn(self, subject: Denoises, data, run) -> Denoises:
            return subject

    pool = Pool(parse(SHORT), bench.store, bench.device)
    with pytest.raises(Mismatch, match="needs a subject that offers Denoises; Classifier does not"):
        bench.execute(pool.trial(Seeds()), NeedsDiffusion(), [])


def test_a_method_that_diverges_is_reported_not_raised(bench):
    class Explodes(Method[HasLoss]):
        name = "explodes"

        def unlearn(self, subject: HasLoss, data, run) -> HasLoss:
            for p in subject.module.parameters():
                p.data.fill_(float("nan"))
            next(data.forget.batches(1)), next(data.retain.batches(1))
            return subject

    pool = Pool(parse(SHORT), bench.store, bench.device)
    report, _ = bench.execute(
        pool.trial(Seeds()), Explodes(), [metrics.get(m)() for m in ("accuracy", "loss", "mia")]
    )
    assert any("not finite" in n for n in report.notes)


def test_global_generators_are_untouched(bench):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    go(bench, "random-labels", epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_deadline_stops_the_call(bench):
    from unlearn.errors import OutOfTime

    with pytest.raises(OutOfTime, match="the time that was given is over"):
        go(api.bench(bench.store.root, "cpu", minutes=0.0001), "finetune", epochs=50)


def test_from_python(bench):
    report = unlearn.run(
        "ssd", scenario=SHORT, seed=0, store=bench.store, device="cpu", metrics=["accuracy"], alpha=3.0
    )
    assert report.recipe["method"]["values"]["alpha"] == 3.0


def restless(name="restless"):
    """A method whose weights no seed decides."""

    class Restless(Method[HasLoss]):
        def unlearn(self, subject: HasLoss, data, run) -> HasLoss:
            rng = torch.Generator()
            rng.seed()
            with torch.no_grad():
                for p in subject.module.parameters():
                    p.add_(0.01 * torch.randn(p.shape, generator=rng))
            next(data.forget.batches(2)), next(data.retain.batches(2))
            return subject

    Restless.name = name
    return Restless


def test_replay_tells_a_run_that_does_not_repeat_even_with_the_store_at_hand(bench, monkeypatch):
    cls = restless()
    monkeypatch.setitem(methods._live, "restless", cls)
    pool = Pool(parse(SHORT), bench.store, bench.device)
    report, _ = bench.execute(pool.trial(Seeds()), cls(), [metrics.get("accuracy")()])
    _, same = api.replay(report, api.bench(bench.store.root, "cpu", fresh=True))
    assert not same


def test_fresh_makes_model_and_report_again(bench):
    cls = restless("restless-too")
    fresh = api.bench(bench.store.root, "cpu", fresh=True)
    pool = Pool(parse(SHORT), bench.store, bench.device)
    trial = pool.trial(Seeds())
    results = [fresh.execute(trial, cls(), [metrics.get("accuracy")()]) for _ in range(2)]
    (first, a), (second, b) = results
    assert first.weights["unlearned"] == weights_hash(a.module.state_dict())
    assert second.weights["unlearned"] == weights_hash(b.module.state_dict()) != first.weights["unlearned"]


@pytest.mark.parametrize("kind", ["metric", "method"])
def test_an_edited_plugin_is_not_taken_from_the_store(bench, tmp_path, kind):
    from unlearn import registry

    texts = {
        "metric": 'from unlearn import Metric, metrics\nfrom unlearn.metric import Aim, Score\n\n'
        '@metrics.register("constant")\nclass Constant(Metric):\n    """Same."""\n\n    def measure(self, ev):\n'
        '        return [Score(name="constant", metric="constant", value={v}, aim=Aim.UP)]\n',
        "method": 'from unlearn import Method, methods\nfrom unlearn.subject import HasLoss\n\n'
        '@methods.register("constant")\nclass Constant(Method[HasLoss]):\n    """Same."""\n\n'
        '    def unlearn(self, subject: HasLoss, data, run) -> HasLoss:\n'
        '        next(subject.module.parameters()).data.fill_({v})\n        return subject\n',
    }  # fmt: skip
    pool = Pool(parse(SHORT), bench.store, bench.device)
    found = []
    for v in (1.0, 2.0):
        (folder := tmp_path / str(v)).mkdir()
        (folder / "mine.py").write_text(texts[kind].format(v=v))
        module = registry.load_file(folder / "mine.py")
        (registry.metrics if kind == "metric" else registry.methods)._live.pop("constant")
        method = module.Constant() if kind == "method" else methods.get("none")()
        measured = [module.Constant()] if kind == "metric" else []
        report, done = bench.execute(pool.trial(Seeds()), method, measured)
        found.append(
            report.score("constant").value
            if measured
            else float(next(done.module.parameters()).detach().max())
        )
    assert found == [1.0, 2.0]


def test_a_stored_patch_is_not_put_on_another_base(bench, tmp_path):
    own = api.bench(tmp_path, "cpu")
    go(own, "cf-k", "digits/class=3,epochs=1")
    for path in (tmp_path / "trained").glob("*/weights.safetensors"):
        tensors = load_tensors(path)
        save_tensors(path, {n: t + 0.01 if n.endswith("conv1.weight") else t for n, t in tensors.items()})
    ((report, done),) = go(own, "cf-k", "digits/class=3,epochs=1")
    assert weights_hash(done.module.state_dict()) == report.weights["unlearned"]
    ((alone, _),) = go(api.bench(tmp_path, "cpu", fresh=True), "cf-k", "digits/class=3,epochs=1")
    assert alone.weights == report.weights


def test_values_that_are_not_finite_in_the_log_do_no_harm(bench):
    class Notes(Method[HasLoss]):
        name = "notes"

        def unlearn(self, subject: HasLoss, data, run) -> HasLoss:
            run.note(loss=float("nan"), fine=1.0)
            return subject

    pool = Pool(parse(SHORT), bench.store, bench.device)
    report, _ = bench.execute(pool.trial(Seeds()), Notes(), [])
    assert report.log == {"loss": [None], "fine": [1.0]}


def test_an_error_in_a_users_training_function_is_not_the_stores(bench, tmp_path):
    from unlearn.errors import BadValue
    from unlearn.ops.recipe import Function

    def fit(module, batches, seed):
        (tmp_path / "absent").read_text()

    pool = Pool(parse(SHORT), bench.store, bench.device)
    subject = pool.scenario.subject(torch.Generator())
    subject.recipe = Function(fit, "x")
    with pytest.raises(BadValue, match="your fit\\(\\) raised FileNotFoundError"):
        subject.fit(pool.shelf.of(pool.material.train), Run())
