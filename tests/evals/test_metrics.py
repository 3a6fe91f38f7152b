"""What single metrics say of small real models, computed apart from them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from unlearn.errors import BadValue, Mismatch
from unlearn.evals.aus import Aus
from unlearn.evals.avg_gap import AvgGap
from unlearn.evals.collapse import Collapse
from unlearn.evals.js import Js
from unlearn.evals.mia import Mia
from unlearn.evals.mia_svc import MiaSvc
from unlearn.evals.relearn import Relearn, steps_to
from unlearn.evals.zrf import Zrf
from unlearn.metric import Evidence, View
from unlearn.ops.divergence import js_released
from unlearn.registry import metrics
from unlearn.score import Aim


def scores(name, ev):
    return {s.name: s for s in metrics.get(name)().score_of(ev)}


def hits(ev, who, where):
    return ev.correct(who, where).double().mean().item()


def probabilities(ev, where, who="unlearned"):
    return ev.outputs(who, where).double().softmax(1).numpy()


def test_accuracies_of_a_random_request(world):
    ev = world()
    found = scores("accuracy", ev)
    assert list(found) == ["accuracy/forget", "accuracy/retain", "accuracy/test"]
    assert found["accuracy/retain"].value == hits(ev, "unlearned", "retain")
    assert found["accuracy/retain"].reference == hits(ev, "oracle", "retain")
    assert scores("ua", ev)["ua"].value == pytest.approx(1 - found["accuracy/forget"].value)


def test_removed_classes_are_told_apart(world):
    ev = world((2,))
    gone = ev.y("test") == 2
    right = ev.correct("unlearned", "test")
    for name in ("accuracy", "loss"):
        assert list(scores(name, ev)) == [
            f"{name}/{s}" for s in ("forget", "retain", "test_forget", "test_retain")
        ]
    found = scores("accuracy", ev)
    assert found["accuracy/test_forget"].value == right[gone].double().mean().item()
    assert found["accuracy/test_retain"].value == right[~gone].double().mean().item()


def test_a_removed_class_without_held_out_examples_is_left_out(world):
    ev = world((2,))
    nothing = torch.zeros(0, dtype=torch.long)
    ev.views = {**ev.views, "audit": View("test", nothing), "audit_fit": View("fit", nothing),
                "test_forget": View("test", nothing)}  # fmt: skip
    assert "accuracy/test_forget" not in scores("accuracy", ev)
    assert scores("mia", ev)["mia/loss/auc"].value is None
    assert "refused" in scores("aus", ev)["aus"].note
    assert scores("entropy", ev) == {} and scores("h-mean", ev) == {}


def test_aus_takes_the_form_of_the_request(world):
    ev = world((2,))
    a_or, a_t, a_f = (hits(ev, *w) for w in (("original", "test_retain"), ("unlearned", "test_retain"),
                                             ("unlearned", "test_forget")))  # fmt: skip
    assert scores("aus", ev)["aus"].value == pytest.approx((1 - (a_or - a_t)) / (1 + a_f))
    [parity] = Aus(variant="duck_const", a_or=0.8864).score_of(ev)
    assert parity.value == pytest.approx((1 - (0.8864 - a_t)) / (1 + a_f))
    assert parity.variant == "duck_const"
    a_or, a_t, a_f = (
        hits(ev, "original", "test"),
        hits(ev, "unlearned", "test"),
        hits(ev, "unlearned", "forget"),
    )
    expected = (1 - (a_or - a_t)) / (1 + abs(a_f - a_t))
    assert Aus(variant="erasure").score_of(ev)[0].value == pytest.approx(expected)
    assert scores("aus", world())["aus"].value == pytest.approx(expected)


def test_composites_equal_their_parts(world):
    ev = world()
    parts = [(hits(ev, "unlearned", s), hits(ev, "oracle", s)) for s in ("forget", "retain", "test")]
    assert scores("tow", ev)["tow"].value == pytest.approx(math.prod(1 - abs(a - b) for a, b in parts))
    attack = scores("mia", ev)["mia/confidence/balanced"]
    gaps = [*(abs(a - b) for a, b in parts), attack.gap]
    assert scores("avg-gap", ev)["avg-gap"].value == pytest.approx(100 * sum(gaps) / 4)
    svc = MiaSvc().score_of(ev)[0]
    gaps[-1] = svc.gap
    [parity] = AvgGap(mia="svc").score_of(ev)
    assert parity.value == pytest.approx(100 * sum(gaps) / 4)
    assert parity.variant == "svc"


def test_h_mean_by_hand(world):
    ev = world((2,))
    kept = hits(ev, "unlearned", "test_retain")
    drop = hits(ev, "original", "test_forget") - hits(ev, "unlearned", "test_forget")
    assert drop > 0
    score = scores("h-mean", ev)["h-mean"]
    assert score.value == pytest.approx(2 / (1 / kept + 1 / drop))
    assert score.original == 0
    assert score.aim is Aim.UP and scores("h-mean", world())["h-mean"].aim is Aim.MATCH


def second_request(ev):
    """The same evidence after two requests, of which the first removed class 1."""
    y = ev.y("test")
    places = {"test_now": y == 2, "test_earlier": y == 1, "test_forget": (y == 1) | (y == 2),
              "test_retain": (y != 1) & (y != 2)}  # fmt: skip
    views = {**ev.views, **{n: View("test", mask.nonzero().flatten()) for n, mask in places.items()}}
    return replace(ev, views=views, removed=(1, 2))


def test_drop_by_hand_and_its_sets(world):
    ev = world((2,))
    found = scores("drop", ev)
    for what, where in (("forget", "test_forget"), ("retain", "test_retain")):
        score = found[f"drop/{what}"]
        assert score.value == pytest.approx(hits(ev, "original", where) - hits(ev, "unlearned", where))
        assert score.reference == pytest.approx(hits(ev, "original", where) - hits(ev, "oracle", where))
        assert score.original == 0
    assert found["drop/forget"].aim is Aim.UP and found["drop/retain"].aim is Aim.DOWN
    random = scores("drop", world())
    assert random["drop/forget"].value == pytest.approx(
        hits(world(), "original", "forget") - hits(world(), "unlearned", "forget")
    )
    assert random["drop/forget"].aim is Aim.MATCH and set(random) == {"drop/forget", "drop/retain"}


def test_after_several_requests_each_is_judged_by_its_own_classes(world):
    """H-mean of the last request must not count classes that were gone before it."""
    ev = second_request(world((2,)))
    kept, drop = (
        hits(ev, "unlearned", "test_retain"),
        hits(ev, "original", "test_now") - hits(ev, "unlearned", "test_now"),
    )
    assert drop > 0
    assert scores("h-mean", ev)["h-mean"].value == pytest.approx(2 / (1 / kept + 1 / drop))
    found = scores("drop", ev)
    assert found["drop/forget"].value == pytest.approx(drop)
    lost = hits(ev, "original", "test_earlier") - hits(ev, "unlearned", "test_earlier")
    assert found["drop/earlier"].value == pytest.approx(lost) and found["drop/earlier"].aim is Aim.MATCH
    shown = scores("accuracy", ev)
    assert shown["accuracy/test_earlier"].value == pytest.approx(hits(ev, "unlearned", "test_earlier"))
    assert "accuracy/test_now" in shown and "accuracy/test_now" not in scores("accuracy", world((2,)))


def test_attacks_compare_forget_with_like_held_out_examples(world):
    ev = world((2,))
    audit = ev.y("test") == 2
    loss = torch.cat([ev.losses("unlearned", "forget"), ev.losses("unlearned", "test")[audit]])
    member = np.repeat([1, 0], [len(ev.y("forget")), int(audit.sum())])
    found = scores("mia", ev)
    assert found["mia/loss/auc"].value == pytest.approx(roc_auc_score(member, -loss.numpy()))
    assert found["mia/loss/auc"].low < found["mia/loss/auc"].value < found["mia/loss/auc"].high
    retain = torch.cat([ev.losses("unlearned", "retain"), ev.losses("unlearned", "test")[~audit]])
    member = np.repeat([1, 0], [len(ev.y("retain")), int((~audit).sum())])
    assert found["mia/loss/auc-retain"].value == pytest.approx(roc_auc_score(member, -retain.numpy()))


def test_confidence_orders_as_the_loss_does(world):
    found = scores("mia", world())
    for what in ("auc", "balanced", "tpr@10%", "auc-retain"):
        assert found[f"mia/confidence/{what}"].value == pytest.approx(found[f"mia/loss/{what}"].value)


def test_low_rates_are_refused_where_too_few_examples_carry_them(world):
    found = scores("mia", world())
    assert found["mia/loss/tpr@10%"].value is not None
    for rate, least in (("1%", 300), ("0.1%", 3000)):
        score = found[f"mia/loss/tpr@{rate}"]
        assert score.value is None and str(least) in score.note and "80" in score.note


@pytest.mark.parametrize("feature", ["confidence", "entropy", "correctness", "probability"])
def test_svc_attack_equals_scikit_learn_on_saluns_split(world, feature):
    ev = world()

    def features(where):
        p, y = probabilities(ev, where), ev.y(where).numpy()
        made = {
            "confidence": p[np.arange(len(p)), y][:, None],
            "entropy": (p * np.log(p)).sum(1)[:, None],
            "correctness": (p.argmax(1) == y)[:, None].astype(float),
            "probability": p,
        }
        return made[feature]

    n = len(ev.y("test"))
    x, y = np.concatenate([features("retain")[:n], features("test")]), np.repeat([1, 0], n)
    called = SVC(C=3, gamma="auto", kernel="rbf").fit(x, y).predict(features("forget"))
    [score] = MiaSvc(feature=feature).score_of(ev)
    assert score.value == (called == 0).mean()
    assert score.variant == feature


def test_entropy_attack_equals_scikit_learns_logistic_regression(world):
    ev = world()
    h = {
        w: (lambda p: -(p * np.log(p)).sum(1)[:, None])(probabilities(ev, w))
        for w in ("retain", "test", "forget")
    }
    y = np.repeat([1, 0], [len(h["retain"]), len(h["test"])])
    model = LogisticRegression(class_weight="balanced").fit(np.concatenate([h["retain"], h["test"]]), y)
    found = scores("mia-logistic", ev)
    assert found["mia-logistic/entropy"].value == model.predict(h["forget"]).mean()
    assert 0.2 < found["mia-logistic/loss"].value < 0.8


def test_zrf_variants_name_themselves(world):
    ev = world()
    nats, bits, released = (Zrf(variant=v).score_of(ev)[0] for v in ("nats", "bits", "bad_teacher"))
    assert (1 - bits.value) == pytest.approx((1 - nats.value) / math.log(2))
    assert released.value == pytest.approx(
        1 - float(js_released(ev.outputs("unlearned", "forget"), untrained(ev)))
    )
    assert [nats.variant, bits.variant, released.variant] == ["", "bits", "bad_teacher"]
    assert Js(variant="bits").score_of(ev)[0].value == pytest.approx(Js().score_of(ev)[0].value / math.log(2))


def test_costs_are_read_from_the_run(world):
    ev = world()
    time = scores("run-time", ev)
    assert (time["run-time/seconds"].value, time["run-time/ratio"].value) == (2.0, 0.25)
    assert scores("memory", ev)["memory/peak"].value == 1000
    read = {name: s.value for name, s in scores("read", ev).items()}
    assert read == {"read/forget": 40, "read/retain": 0, "read/validation": 7}


def test_training_models_that_the_method_was_lent_is_part_of_its_time(world):
    ev = world()
    ev.facts = {**ev.facts, "pool_seconds": 6.0}
    time = scores("run-time", ev)
    assert (time["run-time/seconds"].value, time["run-time/ratio"].value) == (8.0, 1.0)


def test_costs_that_nobody_knows_stay_unknown(world):
    ev = world()
    ev.facts = {}
    assert scores("run-time", ev)["run-time/seconds"].value is None
    assert scores("run-time", ev)["run-time/ratio"].value is None
    assert scores("memory", ev)["memory/peak"].value is None
    assert scores("read", ev) == {}


def test_collapse_is_told(world, build):
    dead = build()
    with torch.no_grad():
        dead.module[2].weight.zero_()
    assert Collapse().score_of(world(unlearned=build(0.21)))[0].value == 0
    assert Collapse().score_of(world(unlearned=dead))[0].value == 1
    [score] = Collapse().score_of(world(unlearned=dead, oracle=None, oracle2=None))
    assert score.value == 1 and "original" in score.note


def test_the_most_harmed_class_is_named(world, build):
    harmed = build()
    with torch.no_grad():
        harmed.module[2].bias[1] -= 100.0
    ev = world(unlearned=harmed)
    ev.classes = ("ant", "bee", "cat", "dog")
    score = scores("per-class", ev)["per-class/worst-drop"]
    bees = ev.y("test") == 1
    assert score.value == ev.correct("original", "test")[bees].double().mean().item()
    assert score.note.startswith("accuracy lost by class: bee")
    assert score.original == 0


def test_losses_are_means_over_examples(world):
    ev = world()
    expected = torch.nn.functional.cross_entropy(ev.outputs("unlearned", "retain").double(), ev.y("retain"))
    found = scores("loss", ev)["loss/retain"]
    assert found.value == pytest.approx(expected.item(), rel=1e-6) and found.unit == "nats"


def untrained(ev):
    """Outputs on the forget set of a network with the weights that the metric's seed gives."""
    fresh = ev.subjects["original"].fresh(torch.Generator().manual_seed(ev.seed))
    with torch.no_grad():
        return torch.cat([fresh.outputs(b) for b in ev.handles["forget"].batches(13)])


class Curve:
    """One weight w with loss w², whose descent can be worked by hand."""

    def __init__(self, at):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.module.weight, at)

    def clone(self):
        return Curve(float(self.module.weight.detach()))

    def loss(self, batch, rng=None):
        return self.module.weight.square().flatten().expand(len(batch))


def test_steps_are_counted_as_by_hand(handles):
    batch = next(handles["forget"].batches(3))
    # w = 1, lr 0.25: velocity 2, w 0.5 (loss 0.25); velocity 0.9 x 2 + 1 = 2.8, w = -0.2 (loss 0.04)
    for target, steps in ((1.0, 0), (0.99, 1), (0.25, 1), (0.2, 2), (0.04001, 2)):
        assert steps_to(Curve(1.0), batch, target, lr=0.25, cap=9, seed=0) == steps
    assert steps_to(Curve(1.0), batch, -1.0, lr=0.25, cap=9, seed=0) == 9
    assert steps_to(Curve(math.nan), batch, 1.0, lr=0.25, cap=9, seed=0) == 9


def test_relearning_leaves_the_models_alone_and_ranks_them(handles):
    subjects = {"original": Curve(0.0), "unlearned": Curve(1.0), "oracle": Curve(2.0)}
    ev = Evidence(subjects, handles)
    steps, index = Relearn(lr=0.002, cap=100).score_of(ev)
    assert 0 == steps.original < steps.value < steps.reference < 100
    assert index.value == pytest.approx((steps.value + 0.01) / (steps.reference + 0.01))
    assert [float(s.module.weight.detach()) for s in subjects.values()] == [0.0, 1.0, 2.0]


def test_what_is_not_reached_is_said(handles):
    ev = Evidence({"original": Curve(0.0), "unlearned": Curve(9.0), "oracle": Curve(0.0)}, handles)
    steps, index = Relearn(lr=1e-4, cap=5).score_of(ev)
    assert steps.value == 5 and "stopped at 5 steps for: unlearned" in steps.note
    assert index.value is None and "no step" in index.note


def test_a_model_that_is_no_classifier_has_losses_attacks_and_costs(handles, world):
    views = world().views
    ev = Evidence({"original": Curve(0.0), "unlearned": Curve(1.0)}, handles, views, facts={"seconds": 1.0})
    assert scores("loss", ev)["loss/test"].value == 1.0
    assert {n.split("/")[1] for n in scores("mia", ev)} == {"loss"}
    assert scores("run-time", ev)["run-time/seconds"].value == 1.0
    for name in ("accuracy", "zrf", "js"):
        with pytest.raises(Mismatch, match=f"{name} .*Curve"):
            scores(name, ev)


def test_bad_fields_are_refused():
    for wrong in (lambda: Aus(variant="duck"), lambda: Mia(draws=0), lambda: Relearn(lr=0.0)):
        with pytest.raises(BadValue):
            wrong()


@pytest.mark.parametrize("removed", [(), (2,)])
def test_nomus_is_made_of_test_accuracy_and_the_attack(world, removed):
    ev = world(removed)
    found, attack = scores("nomus", ev), scores("mia", ev)["mia/loss/balanced"]
    test = "test_retain" if removed else "test"
    for who in ("value", "original", "reference"):
        apart = 1 - 2 * abs(getattr(attack, who) - 0.5)
        assert getattr(found["nomus/indiscernibility"], who) == pytest.approx(apart)
        model = {"value": "unlearned", "reference": "oracle"}.get(who, who)
        assert getattr(found["nomus"], who) == pytest.approx((hits(ev, model, test) + apart) / 2)
