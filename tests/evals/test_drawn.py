"""Metrics of drawings worked by hand, and drawings that are damage and must not pass for erasure."""

import math

import pytest
import torch
from galleries import ASKED, SURE, evidence, gallery, painted, scores

from unlearn.data import Resident
from unlearn.errors import Mismatch
from unlearn.evals.concept_accuracy import ConceptAccuracy
from unlearn.evals.frechet import Frechet
from unlearn.evals.kernel_distance import KernelDistance, mmd
from unlearn.evals.neighbours import Neighbours, nearest
from unlearn.evals.paired_distance import PairedDistance, perceptual
from unlearn.evals.text_agreement import TextAgreement
from unlearn.ops.frechet import frechet
from unlearn.sources import Arrays

LOW_OBJECT, LOW_STYLE = (1 - SURE) / 3, (1 - SURE) / 2
RED, GREEN, DARK_RED = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.0, 0.0)
NOISE = painted([(3, 2)] * 6, torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).tolist())


# The judges' probabilities


def test_text_agreement_by_hand():
    found = scores(TextAgreement(), evidence())
    target = found["text-agreement/target"]
    assert target.value == pytest.approx(LOW_OBJECT), "the other drawing shows nothing and is left out"
    assert (target.original, target.n) == (pytest.approx(SURE), 1)
    assert target.note == "1 of 2 drawings show nothing and are left out"
    others = found["text-agreement/others"]
    assert others.value == pytest.approx((3 * SURE * SURE + SURE * LOW_STYLE) / 4)
    assert others.original == pytest.approx((3 * SURE * SURE + LOW_OBJECT * SURE) / 4)
    assert found["text-agreement/rest"].value == pytest.approx(SURE)


def test_with_one_axis_there_is_no_rest():
    shown = gallery()
    judges, asked = ({"object": d["object"]} for d in (shown.judges, shown.asked))
    names = sorted(scores(TextAgreement(), evidence(shown=gallery(judges=judges, asked=asked))))
    assert names == ["text-agreement/others", "text-agreement/target"]


# Concept by concept


def test_concept_accuracy_by_hand():
    images = {"unlearned": painted([(1, 0), (0, 1), (1, 0), (1, 0), (2, 0), (0, 1)])}
    found = scores(ConceptAccuracy(), evidence(images))
    assert found["concept-accuracy/target"].value == 0.5
    assert found["concept-accuracy/target"].original == 1
    worst = found["concept-accuracy/worst"]
    assert (worst.value, worst.original, worst.reference, worst.n) == (0.5, 0.5, 1, 2)
    assert worst.note == "c, which the original draws right in 50 %"
    assert found["concept-accuracy/harmonic"].value == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert found["concept-accuracy/harmonic"].original == 0


def test_a_drawing_of_nothing_is_no_erased_concept():
    found = scores(ConceptAccuracy(), evidence())
    assert found["concept-accuracy/harmonic"].value == pytest.approx(2 * 0.5 / 1.5), (
        "one of two, not two of two"
    )
    assert found["concept-accuracy/target"].n == 1


# Pairs


def test_unit_features_are_compared_layer_by_layer():
    a = torch.zeros(1, 2, 1, 2)
    a[0, 0] = 3.0
    b = a.clone()
    b[0, :, 0, 1] = torch.tensor([0.0, 7.0])
    assert perceptual([a], [2 * a]).tolist() == [0], "their length does not count"
    assert perceptual([a], [b]).tolist() == [1], "one position of two is orthogonal: the mean of 0 and 2"
    assert perceptual([a, a], [b, b]).tolist() == [2]


def test_paired_distance_by_hand():
    original = painted([(0, 0)] * 6, [RED] * 6)
    unlearned = painted([(1, 0), (0, 0), *[(0, 0)] * 4], [GREEN, RED, RED, RED, RED, DARK_RED])
    found = scores(PairedDistance(), evidence({"original": original, "unlearned": unlearned}))
    assert found["paired-distance/colours/target"].value == 1, "2 and 0"
    assert found["paired-distance/colours/others"].value == 0, "dark red has the colour of red"
    assert found["paired-distance/colours/difference"].value == 1
    assert found["paired-distance/colours/target"].original == 0
    assert "colours" in found["paired-distance/colours/others"].note
    # 48 numbers: four pixels change from red to green, and one object pixel by 1
    moved = math.sqrt((4 * 2 + 1) / 48)
    assert found["paired-distance/rmse/target"].value == pytest.approx(moved / 2)
    assert found["paired-distance/rmse/others"].value == pytest.approx(math.sqrt(4 * 0.25 / 48) / 4)


# Sets


def coloured(seed):
    rng = torch.Generator().manual_seed(seed)
    return painted([(0, 0)] * 6, torch.rand(6, 3, generator=rng).tolist())


@pytest.mark.parametrize(
    ("metric", "distance"),
    [(Frechet(), frechet), (KernelDistance(), lambda a, b: mmd(a, b, paired=True))],
    ids=["frechet", "kernel-distance"],
)
def test_sets_are_compared_without_the_concept_and_with_the_oracle(metric, distance):
    images = {who: coloured(k) for k, who in enumerate(("original", "unlearned", "oracle"))}
    seen = {who: x[:, :, 3, 0] for who, x in images.items()}
    found = scores(metric, evidence(images))
    others, oracle = found[f"{metric.name}/colours/others"], found[f"{metric.name}/colours/oracle"]
    assert others.value == pytest.approx(distance(seen["unlearned"][2:], seen["original"][2:]), rel=1e-5)
    assert others.reference == pytest.approx(distance(seen["oracle"][2:], seen["original"][2:]), rel=1e-5)
    assert (others.original, others.n) == (pytest.approx(0, abs=1e-12), 4)
    assert oracle.value == pytest.approx(distance(seen["unlearned"], seen["oracle"]), rel=1e-5)
    assert oracle.original == pytest.approx(distance(seen["original"], seen["oracle"]), rel=1e-5)
    assert others.low <= others.value <= others.high
    for said in (
        "features of colours",
        "paired by noise",
        "not FID" if metric.name == "frechet" else "not KID",
    ):
        assert said in others.note


def test_few_drawings_are_said_to_be_few():
    many = {"wide": lambda images: (images.flatten(1)[:, :, None, None],)}
    note = scores(Frechet(), evidence(shown=gallery(features=many)))["frechet/wide/others"].note
    assert "fewer drawings than the 48 features, so covariances are singular" in note


@pytest.mark.parametrize("metric", [Frechet(), KernelDistance()], ids=lambda m: m.name)
def test_without_a_network_there_is_a_refusal_and_without_an_oracle_no_answer(metric):
    refused = scores(metric, evidence(shown=gallery(features={})))[metric.name]
    assert refused.value is None
    assert refused.note.startswith("refused: the scenario names no network")
    alone = scores(metric, evidence(without=("oracle",)))
    assert alone[f"{metric.name}/colours/others"].reference is None
    assert "no reference" in alone[f"{metric.name}/colours/oracle"].note


@pytest.mark.parametrize("axis", ["object", "style"])
def test_features_of_the_embedded_scenario_are_what_its_judges_decide_by(axis):
    from unlearn.scenario import parse
    from unlearn.scenarios.ink import _judge

    scenario = parse("ink/concept=three,drawings=1")
    shown = scenario.gallery(scenario.request)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ev = evidence({who: images for who in ("original", "unlearned", "oracle")}, shown)
    features = ev.features_of_drawings("unlearned", f"ink-{axis}-judge")
    torch.testing.assert_close(_judge(axis)[-1](features), shown.judges[axis](images))
    assert [m.shape[1:] for m in shown.features[f"ink-{axis}-judge"](images)] == [
        (24, 16, 16), (24, 16, 16), (48, 8, 8), (48, 8, 8), (64, 4, 4)
    ]  # fmt: skip


# Neighbours


class Writer:
    """An original whose text states are the prompts' numbers."""

    module = torch.nn.Linear(1, 1)

    def words(self, batch):
        states = torch.zeros(len(batch.y), 3, 2)
        states[:, 1] = batch.y.float()
        states[:, 2] = -99
        return states, torch.ones(len(batch.y), dtype=torch.long)


def test_neighbours_are_nearest_in_what_tells_concepts_apart():
    # all prompts share 100 along the first direction: raw cosines would all be near 1
    states = torch.tensor([[101.0, 0.0], [99.0, 0.0], [100.0, 1.0], [101.0, -0.2], [101.0, 0.2]])
    order, cosines = nearest(states, torch.tensor([0, 3, 5, 7, 0]), 0)
    assert order == [7, 5, 3]
    means = torch.tensor([[101.0, 0.1], [99.0, 0.0], [100.0, 1.0], [101.0, -0.2]], dtype=torch.float64)
    apart = means - means.mean(0)
    assert cosines == pytest.approx(
        [float(torch.cosine_similarity(apart[0], apart[k], 0)) for k in (3, 2, 1)]
    )


def test_neighbours_by_hand():
    ids = torch.tensor([[9, 0], [9, 0], [7, 1], [7, 1], [1, 5], [1, 5]])
    images = {"unlearned": painted([(1, 0), (1, 0), (1, 0), (2, 1), (2, 0), (2, 1)])}
    ev = evidence(images)
    ev.handles = {"prompts": Resident(Arrays(torch.zeros(6, 0), ids))}
    ev.subjects = dict.fromkeys(ev.subjects, Writer())
    found = {s.name: s for s in Neighbours(k=1).measure(ev)}
    assert found["neighbours/near"].value == 0.5, "b: one of two"
    assert found["neighbours/near"].n == 2
    assert found["neighbours/near"].note.startswith("nearest to a, by cosine: b 0.")
    assert found["neighbours/far"].value == 1
    assert found["neighbours/far"].original == 0.5
    assert [s.name for s in Neighbours(k=2).measure(ev)] == ["neighbours/near"], "there are two others"


# Damage


@pytest.mark.parametrize(
    "metric", [TextAgreement(), ConceptAccuracy(), PairedDistance()], ids=lambda m: m.name
)
@pytest.mark.parametrize("images", [NOISE, NOISE * float("nan")], ids=["noise", "not-finite"])
def test_a_destroyed_model_has_erased_nothing(metric, images):
    found = scores(metric, evidence({"unlearned": images}))
    targets = [s for name, s in found.items() if name.endswith("/target")]
    assert targets
    for s in targets:
        assert s.value is None
        assert "2 of 2 drawings show nothing and are left out" in s.note
    assert all(
        s.value in (None, 0) for name, s in found.items() if name.endswith(("/harmonic", "/difference"))
    )


def test_a_destroyed_model_has_not_kept_the_others():
    noise, lost = (evidence({"unlearned": x}) for x in (NOISE, NOISE * float("nan")))
    assert scores(ConceptAccuracy(), noise)["concept-accuracy/worst"].value == 0
    assert scores(ConceptAccuracy(), lost)["concept-accuracy/worst"].value == 0
    assert scores(TextAgreement(), lost)["text-agreement/others"].value == 0
    said = scores(PairedDistance(), lost)["paired-distance/rmse/others"]
    assert said.value is None
    assert "6 of 6 drawings are not finite" in said.note
    for metric in (Frechet(), KernelDistance()):
        said = scores(metric, lost)[f"{metric.name}/colours/others"]
        assert said.value is None
        assert "6 of 6 drawings are not finite" in said.note


@pytest.mark.parametrize(
    "metric",
    [TextAgreement(), ConceptAccuracy(), PairedDistance(), Frechet(), KernelDistance()],
    ids=lambda m: m.name,
)
def test_without_judges_metrics_refuse_in_one_line(metric):
    ev = evidence()
    ev.gallery = None
    with pytest.raises(Mismatch, match="no judges of drawings; choose other metrics"):
        metric.score_of(ev)


@pytest.mark.parametrize("target", [True, False], ids=["concept-alone", "others-alone"])
@pytest.mark.parametrize(
    "metric", [TextAgreement(), ConceptAccuracy(), PairedDistance()], ids=lambda m: m.name
)
def test_sets_without_prompts_have_no_score(metric, target):
    asked = {"object": torch.full((6,), 0 if target else 1), "style": torch.tensor([s for _, s in ASKED])}
    names = {n.rpartition("/")[2] for n in scores(metric, evidence(shown=gallery(asked=asked)))}
    assert names <= ({"target", "rest"} if target else {"others", "worst"})
    assert names


def test_where_nobody_judges_distances_are_measured_and_say_so():
    lost = NOISE.clone()
    lost[1] = float("nan")
    found = scores(PairedDistance(), evidence({"unlearned": lost}, gallery(judges={})))
    target = found["paired-distance/rmse/target"]
    assert target.value > 0
    assert target.note == (
        "1 of 2 drawings show nothing and are left out; no judge could tell which drawings show nothing"
    )
    for metric in (TextAgreement(), ConceptAccuracy()):
        with pytest.raises(Mismatch, match="no judge looks at objects"):
            scores(metric, evidence(shown=gallery(judges={})))
