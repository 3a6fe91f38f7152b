"""What accuracy does not see: an edit of the last layer alone, and what the owner of the weights brings back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearn.bench import Bench
from unlearn.errors import BadValue
from unlearn.evals.accuracy import Accuracy
from unlearn.evals.cka import Cka
from unlearn.evals.downstream import Downstream
from unlearn.evals.layers import Layers
from unlearn.evals.probe import Probe
from unlearn.evals.recovery import Recovery
from unlearn.ops.representations import cka
from unlearn.ops.rounding import pruned, rounded
from unlearn.pool import Pool
from unlearn.scenario import Seeds, parse
from unlearn.store import Store
from unlearn.subject import mode

CACHE = lambda _who, _where, make, what="": make()  # noqa: E731

pytestmark = pytest.mark.xdist_group("hidden")


@pytest.fixture(scope="module")
def ev(tmp_path_factory):
    """Class 3 of digits, removed by a bias of the last layer."""
    on = Bench(Store(tmp_path_factory.mktemp("hidden")), torch.device("cpu"))
    trial = Pool(parse("digits/class=3,epochs=8"), on.store, on.device).trial(Seeds(), oracles=2)
    done = trial.original.clone()
    with torch.no_grad():
        done.module.linear.bias[3] = -100
    return on.evidence(trial, done, "0" * 32, {"seconds": 0.0})


def of(metric, ev):
    return {s.name: s for s in metric.score_of(ev)}


def test_accuracy_calls_it_forgotten_and_features_do_not(ev):
    found = of(Accuracy(), ev) | of(Cka(), ev) | of(Probe(), ev)
    assert found["accuracy/forget"].value == 0 and found["accuracy/test_retain"].value > 0.9
    like = found["cka/forget-original"]
    assert like.value == pytest.approx(1.0) and like.reference < 0.95 and like.original == pytest.approx(1.0)
    assert found["cka/forget"].value == pytest.approx(found["cka/forget"].original)
    assert 0 < found["cka/forget"].floor <= 1
    for name in ("probe/linear/test_forget", "probe/knn/test_forget"):
        assert found[name].value > 0.9 and found[name].value == found[name].original


def test_what_the_scores_are(ev):
    x, y = ev.features("oracle", "fit").double().numpy(), ev.y("fit").numpy()
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x, y)
    expected = theirs.score(
        ev.features("oracle", "test_forget").double().numpy(), ev.y("test_forget").numpy()
    )
    assert of(Probe(), ev)["probe/linear/test_forget"].reference == pytest.approx(expected, abs=0.03)
    sides = (ev.features(who, "forget") for who in ("unlearned", "oracle"))
    assert of(Cka(), ev)["cka/forget"].value == pytest.approx(cka(*sides))
    debiased = of(Cka(form="debiased"), ev)["cka/forget"]
    assert debiased.variant == "debiased" and debiased.value != of(Cka(), ev)["cka/forget"].value


def test_blocks_before_an_edited_head_know_what_the_original_knows(ev):
    edited = ev.subjects["original"].clone()
    with torch.no_grad():
        edited.module.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        edited.module.linear.weight[1:] = 0  # one direction is left
    subjects = {**ev.subjects, "unlearned": edited}
    planted = replace(ev, subjects=subjects, _memo={}, cache=CACHE)
    found = of(Layers(), planted)
    assert list(found) == [f"layers/{b}" for b in ("conv1", "bn1", "layer1", "layer2", "layer3", "linear")]
    *before, last = found.values()
    assert all(s.value == s.original and s.n == len(ev.y("forget")) for s in before)
    assert last.value < 0.7 < 0.9 < last.original
    assert found["layers/layer3"].value > 0.9 > found["layers/conv1"].value, "deeper blocks know more"


def test_the_last_block_before_the_head_gives_the_features_of_the_probe(ev):
    """The mean over places is what enters the head; the same examples are answered as by scikit-learn."""
    x, y = (ev.features("oracle", w).double().numpy() for w in ("fit", "forget")), ev.y("fit").numpy()
    fit, forget = x
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(fit, y)
    expected = theirs.score(forget, ev.y("forget").numpy())
    found = of(Layers(penalty=0.1), ev)["layers/layer3"]
    assert found.reference == pytest.approx(expected, abs=0.03)
    assert found.low <= found.value <= found.high


def test_another_scenario_as_the_task_downstream(ev):
    """Here it is the digits again, whose features are known: four fifths are learnt from, seed 2."""
    x, y = ev.features("original", "test").double().numpy(), ev.y("test").numpy()
    order = ev.index("test").argsort().numpy()
    learn, answer = train_test_split(order, test_size=0.2, random_state=2)
    found = of(Downstream(other="digits", neighbours=3), ev)
    for name, model in (
        ("downstream/probe", make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))),
        ("downstream/knn", KNeighborsClassifier(3, metric="cosine", algorithm="brute")),
    ):
        score = found[name]
        assert score.original == pytest.approx(
            model.fit(x[learn], y[learn]).score(x[answer], y[answer]), abs=0.015
        )
        assert score.value == score.original > 0.9, "the features of an edited head are the original's"
        assert score.variant == "digits" and score.n == len(answer) and score.low < score.value < score.high
    assert of(Downstream(other="digits", examples=50), ev)["downstream/knn"].n == 10


def test_patches_of_two_photographs_show_wrecked_features(ev):
    wrecked = ev.subjects["original"].clone()
    with torch.no_grad():
        wrecked.module.layer1[0].bn2.weight.zero_()
        wrecked.module.layer1[0].bn2.bias.fill_(-1000)  # all behind a ReLU that never opens
        wrecked.module.layer1[0].shortcut = torch.nn.Identity()
    subjects = {**ev.subjects, "unlearned": wrecked}
    found = of(Downstream(), replace(ev, subjects=subjects, _memo={}, cache=CACHE))
    assert found["downstream/probe"].value < 0.6 < 0.8 < found["downstream/probe"].original
    assert found["downstream/knn"].value < 0.6 < 0.8 < found["downstream/knn"].reference


def test_a_few_examples_bring_back_what_only_the_last_layer_forgot(ev):
    """A bias of -100 takes long to learn, one of -3 a few steps; the oracle takes more."""
    with torch.no_grad():
        ev.subjects["unlearned"].module.linear.bias[3] = -3
    found = of(Recovery(), ev)
    again = found["recovery/relearnt"]
    said, *curves = again.note.replace(": ", "; ").split("; ")
    assert said == "16 examples learnt again" and curves[0] == "accuracy after each step"
    drawn = {who: [float(v) for v in text.split(", ")] for who, text in (c.split(" ", 1) for c in curves[1:])}
    assert {who: len(curve) for who, curve in drawn.items()} == {"unlearned": 10, "oracle": 10}
    curve = drawn["unlearned"]
    assert again.value == pytest.approx(sum(curve) / 10, abs=0.01)
    assert again.reference == pytest.approx(sum(drawn["oracle"]) / 10, abs=0.01)
    assert curve[-1] > 0.9 and again.original >= again.value > again.reference + 0.1
    assert set(found) == {f"recovery/{n}" for n in ("8-bit", "4-bit", "pruned", "relearnt")}
    assert (
        found["recovery/8-bit"].n == len(ev.y("forget"))
        and found["recovery/relearnt"].n == len(ev.y("forget")) - 16
    )
    for name, treat in (("4-bit", lambda w: rounded(w, 4)), ("pruned", lambda w: pruned(w, 0.3))):
        subject = ev.subjects["original"].clone()
        with torch.no_grad(), mode(subject.module, train=False):
            for p in subject.module.parameters():
                if p.dim() > 1:
                    p.copy_(treat(p))
            batch = next(ev.handles["forget"].batches(10_000))
            right = (subject.outputs(batch).argmax(1) == batch.y).double().mean()
        assert found[f"recovery/{name}"].original == pytest.approx(float(right))


def test_further_budgets_and_levels_are_scores_of_their_own(ev):
    found = of(Recovery(budgets=(4, 64), shares=(0.6,)), ev)
    plain = of(Recovery(), ev)
    assert set(found) - set(plain) == {"recovery/relearnt/4", "recovery/relearnt/64", "recovery/pruned/0.6"}
    assert all(found[name] == score for name, score in plain.items())
    assert of(Recovery(examples=4), ev)["recovery/relearnt"].value == found["recovery/relearnt/4"].value
    assert of(Recovery(share=0.6), ev)["recovery/pruned"].value == found["recovery/pruned/0.6"].value
    assert found["recovery/relearnt/64"].n == len(ev.y("forget")) - 64
    for wrong in ({"shares": (1.0,)}, {"budgets": (4, 0)}):
        with pytest.raises(BadValue, match="recovery: shares must be >= 0 and < 1 and budgets >= 1, got"):
            Recovery(**wrong).measure(ev)


def test_pruning_is_by_size():
    w = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    found = pruned(w, 0.4)
    limit = np.sort(w.abs().flatten().numpy())[int(0.4 * 35)]
    assert torch.equal(found, torch.where(w.abs() >= limit, w, torch.zeros_like(w)))
    assert torch.equal(pruned(w, 0.0), w)
