"""The data of the pictures: against hand-worked cases, scikit-learn and scipy, and without what is missing."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from unlearn import figures
from unlearn.data import Resident
from unlearn.metric import Evidence, View
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.subjects.regressor import Regressor

CLASSES = 3


def images(n, seed, classes=CLASSES):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 4, 4, generator=rng)
    return Resident(Arrays(x, torch.arange(n) % classes))


def network(seed, outputs=CLASSES):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs))


def evidence(oracle=True, sizes=(12, 40, 30), **rest):
    who = ["original", "unlearned", "oracle"] if oracle else ["original", "unlearned"]
    subjects = {name: Classifier(network(k), CLASSES) for k, name in enumerate(who)}
    handles = {
        name: images(n, k)
        for k, (name, n) in enumerate(zip(("forget", "retain", "test"), sizes, strict=True))
    }
    views = {"audit": View("test", torch.arange(0, sizes[2], CLASSES))}
    return Evidence(subjects, handles, views, classes=("ant", "bee", "cat"), **rest)


def test_all_pictures_of_a_classifier_are_small_json():
    data = figures.collect(evidence(sizes=(300, 900, 300)))
    assert set(data) == {"loss", "roc", "entropy", "classes", "features"}
    assert len(json.dumps(data, allow_nan=False)) < 60_000
    assert len(data["features"]["points"]["original"]) == figures.POINTS
    assert len(data["roc"]["fpr"]) <= 200


def test_histograms_are_shares_of_each_set():
    ev = evidence()
    data = figures.collect(ev)["loss"]
    assert set(data["share"]) == {"original", "unlearned", "oracle"}
    for sets in data["share"].values():
        assert set(sets) == {"forget", "audit", "test"}
        assert all(sum(share) == pytest.approx(1, abs=1e-3) for share in sets.values())
    values = ev.losses("original", "forget").double().numpy()
    expected = np.histogram(values, data["edges"])[0] / len(values)
    assert np.abs(np.array(data["share"]["original"]["forget"]) - expected).max() <= 1 / len(values)


def test_losses_that_are_not_finite_are_counted_not_drawn():
    ev = evidence()
    with torch.no_grad():
        ev.subjects["unlearned"].module[3].bias.fill_(float("nan"))
    data = figures.collect(ev)
    assert data["loss"]["not_finite"]["unlearned"] == 12 + 10 + 30
    assert data["loss"]["not_finite"]["original"] == 0
    assert "unlearned" not in data["roc"]["tpr"]
    json.dumps(data, allow_nan=False)


def test_the_curve_and_its_area_are_those_of_scikit_learn():
    rng = torch.Generator().manual_seed(3)
    members, others = torch.randn(70, generator=rng), torch.randn(50, generator=rng) + 0.7
    truth = np.r_[np.ones(70), np.zeros(50)]
    score = -torch.cat([members, others]).numpy()
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    grid = torch.tensor([0.02, 0.1, 0.5, 0.99, 1.0], dtype=torch.float64)
    expected = [tpr[fpr <= g + 1e-9].max() for g in grid.tolist()]
    assert figures.roc(members, others, grid).tolist() == pytest.approx(expected)
    assert figures.auc(members, others) == pytest.approx(roc_auc_score(truth, score))


def test_ties_count_against_the_attack_in_the_curve_and_half_in_the_area():
    members, others = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert figures.roc(members, others, torch.tensor([0.1, 0.5, 1.0])).tolist() == pytest.approx([0, 1, 1])
    assert figures.auc(members, others) == pytest.approx((0.75 + 0.75 + 0.5) / 3)


def test_projection_is_the_principal_components_of_scikit_learn():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
        [5.0, 3, 1, 1, 1]
    )
    mean, axes, share = figures.principal(x)
    reference = PCA(2).fit(x.numpy())
    assert np.abs(((x - mean) @ axes).numpy()) == pytest.approx(
        np.abs(reference.transform(x.numpy())), abs=1e-9
    )
    assert share.tolist() == pytest.approx(reference.explained_variance_ratio_.tolist())


def test_unlearned_features_lie_on_the_axes_of_the_original():
    ev = evidence()
    data = figures.collect(ev)["features"]
    stacked = [
        torch.cat([ev.features(who, w) for w in ("forget", "retain")]).double()
        for who in ("original", "unlearned")
    ]
    mean, axes, _ = figures.principal(stacked[0])
    expected = ((stacked[1] - mean) @ axes).numpy()
    assert np.array(data["points"]["unlearned"]) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert data["forgotten"] == 12


def test_entropy_of_certain_and_undecided_predictions():
    logits = torch.tensor([[1000.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert figures.entropy(logits).tolist() == pytest.approx([0, np.log(3)])
    assert figures.entropy(torch.tensor([[float("nan"), 0.0]])).isnan().all()


def test_accuracy_by_class_against_a_count():
    ev = evidence()
    data = figures.collect(ev)["classes"]
    right, y = ev.correct("unlearned", "test"), ev.y("test")
    assert data["accuracy"]["unlearned"] == pytest.approx(
        [float(right[y == c].float().mean()) for c in range(3)], abs=1e-5
    )
    assert data["names"] == ["ant", "bee", "cat"]


def test_a_class_without_test_examples_has_no_accuracy():
    ev = evidence()
    ev.handles["test"] = images(30, 2, classes=2)
    assert figures.collect(ev)["classes"]["accuracy"]["original"][2] is None


def test_no_oracle_and_tiny_sets():
    data = figures.collect(evidence(oracle=False, sizes=(1, 1, 3)))
    assert set(data["loss"]["share"]) == {"original", "unlearned"}
    assert "features" not in data, "two examples span no plane"
    assert set(data["roc"]["tpr"]) == {"original", "unlearned"}


def test_neighbours_are_where_the_oracle_puts_the_forgotten():
    """By a loop; without an oracle it is the original that assigns them, and without held-out ones nobody."""
    for oracle in (True, False):
        ev = evidence(oracle=oracle)
        assert "neighbours" not in figures.collect(ev)["classes"]
        ev = evidence(oracle=oracle)
        ev.views["test_forget"] = View("test", torch.arange(1, 30, CLASSES))
        module = ev.subjects["oracle" if oracle else "original"].module
        with torch.no_grad():
            module[3].bias[1] -= 0.6  # without it, the oracle puts all of class 1 there
        data = figures.collect(ev)["classes"]
        found = [0.0] * CLASSES
        for k in range(1, 30, CLASSES):  # all of class 1
            said = int(module(ev.handles["test"].source.x[k : k + 1]).argmax())
            found[said] += 0.1 * (said != 1)
        assert data["by"] == ("oracle" if oracle else "original") and sum(found) > 0
        assert data["neighbours"] == pytest.approx(found) and data["neighbours"][1] == 0


def test_a_regressor_has_losses_and_no_classes():
    rng = torch.Generator().manual_seed(0)
    subjects = {n: Regressor(network(k, 1)) for k, n in enumerate(("original", "unlearned"))}
    handles = {
        n: Resident(Arrays(torch.rand(9, 16, generator=rng), torch.rand(9, generator=rng)))
        for n in ("forget", "retain", "test")
    }
    data = figures.collect(Evidence(subjects, handles))
    assert {"loss", "roc", "values"} <= set(data) <= {"loss", "roc", "features", "values"}


def test_forgotten_examples_are_pictured_only_on_demand():
    ev = evidence(sizes=(40, 40, 30))
    assert "forgotten" not in figures.collect(ev)
    thumbs = figures.collect(ev, show_forgotten=True)["forgotten"]
    assert len(thumbs) == figures.THUMBS
    assert thumbs[1]["label"] == "bee"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbs[0]["png"]))))
    x = next(ev.handles["forget"].batches(1)).x[0, 0]
    assert picture.shape == (4, 4)
    assert np.unravel_index(picture.argmax(), (4, 4)) == np.unravel_index(int(x.argmax()), (4, 4))
    assert (picture.min(), picture.max()) == (0, 255)
