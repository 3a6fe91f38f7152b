"""Regression: ranges of targets as requests, scenarios with values, verdicts on errors, a user's own regressor."""

import json
import math

import numpy as np
import pytest
import torch
from reports import SALUN, report, score
from sklearn.datasets import load_diabetes

from unlearn import api
from unlearn.audits import audit_views
from unlearn.errors import BadData, BadValue, UnlearnError
from unlearn.ops.columns import standardised, strata
from unlearn.pool import Pool
from unlearn.report import html, markdown
from unlearn.report.summary import groups
from unlearn.report.verdict import criteria, judge, verdict
from unlearn.request import Labels, parse, request_dict, request_from
from unlearn.scenario import Seeds
from unlearn.scenario import parse as scenario
from unlearn.scenarios.sts import HASHED, hashed
from unlearn.store import Store
from unlearn.testing.tiny import specimen

CPU = torch.device("cpu")
Y = torch.tensor([0.1, 0.2, 2.0, -1.5, 5.0, 2.2, 0.0])
LABELS = Labels(Y)
RNG = torch.Generator()

# Requests


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("range=0:2", [0, 1, 2, 6]),
        ("range=0.1:0.2", [0, 1]),  # of float32 targets
        ("range=-1.5:0", [3, 6]),
        ("range=2.2:1000000000000000000000", [4, 5]),
        ("range=0.00001:0.1", [0]),
        ("range=0.1:0.1+range=-2:-1", [0, 3]),
    ],
)
def test_a_range_holds_both_its_ends(text, rows):
    asked = parse(text)
    assert asked.rows(LABELS, RNG).tolist() == rows
    assert str(asked) == text and parse(str(asked)) == asked
    assert request_from(json.loads(json.dumps(request_dict(asked)))) == asked


def test_targets_in_a_column_are_targets():
    assert parse("range=0:2").rows(Labels(Y[:, None]), RNG).tolist() == [0, 1, 2, 6]


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("range=6:7", LABELS, "no training example has a target in this range, they run from -1.5 to 5"),
        ("range=2:0", LABELS, "write the smaller end first"),
        ("range=-2:6", LABELS, "the whole training set of 7"),
        ("range=0:1", Labels(torch.tensor([0, 1])), "these data have classes and no values; ask for class="),
        ("range=0:1", Labels(torch.zeros(3, 2)), "several targets for each example"),
    ],
)
def test_a_range_that_cannot_be_served_is_refused_in_one_line(text, labels, words):
    with pytest.raises(BadValue) as err:
        parse(text).rows(labels, RNG)
    assert words in str(err.value) and "\n" not in str(err.value)


@pytest.mark.parametrize(
    "text", ["range=", "range=3", "range=a:b", "range=1:2:3", "range=nan:2", "range=0:inf"]
)
def test_a_range_that_cannot_be_read_is_refused_in_one_line(text):
    with pytest.raises(UnlearnError) as err:
        parse(text)
    assert "\n" not in str(err.value)


# Scenarios


def pool(text, tmp_path):
    return Pool(scenario(text), Store(tmp_path), CPU)


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory):
    return pool("diabetes/range=25:80,epochs=2", tmp_path_factory.mktemp("diabetes"))


def test_diabetes_is_scikit_learns_divided_and_standardised_by_the_training_rows(diabetes):
    x, y = load_diabetes(return_X_y=True, scaled=False)
    m = diabetes.material
    parts = [m.train, m.validation, m.fit, m.test]
    rows = torch.cat([p.rows for p in parts])
    assert sorted(rows.tolist()) == list(range(442))
    assert [len(p.rows) for p in parts] == pytest.approx([265, 44, 66, 66], abs=5)
    train = m.train.rows.numpy()
    mean, std = x[train].mean(0), x[train].std(0)
    np.testing.assert_allclose(m.train.source.x.numpy(), (x - mean) / std, atol=1e-4)
    np.testing.assert_allclose(m.train.source.y.numpy(), (y - y[train].mean()) / y[train].std(), atol=1e-5)
    for p in parts:
        np.testing.assert_allclose(p.labels.y.numpy(), y[p.rows.numpy()])
    subject = diabetes.template
    out = subject.in_unit(torch.zeros(1, 1))
    assert out.item() == pytest.approx(y[train].mean(), rel=1e-6) and subject.unit == "points"
    assert subject.in_unit(torch.ones(1, 1)).item() - out.item() == pytest.approx(y[train].std(), rel=1e-5)


def test_parts_hold_every_tenth_of_the_targets(diabetes):
    m = diabetes.material
    for p in (m.validation, m.fit, m.test):
        share = (p.labels.y < m.train.labels.y.median()).double().mean()
        assert share == pytest.approx(0.5, abs=0.08)


def test_a_range_forgets_its_training_examples_and_tells_held_out_ones_apart(diabetes):
    trial = diabetes.trial(Seeds())
    y = torch.tensor(load_diabetes().target)
    inside = (y >= 25) & (y <= 80)
    rows = {n: h.rows for n, h in trial.handles.items()}
    train = torch.cat([rows["forget"], rows["retain"]])
    assert sorted(rows["forget"].tolist()) == sorted(train[inside[train]].tolist())
    for view, base, wanted in (
        ("test_forget", "test", inside),
        ("test_retain", "test", ~inside),
        ("audit", "test", inside),
        ("audit_fit", "fit", inside),
    ):
        seen = rows[base][trial.views[view].rows]
        assert sorted(seen.tolist()) == sorted(rows[base][wanted[rows[base]]].tolist()), view
    assert trial.removed == ()


def test_ranges_one_after_another_are_all_held_out_apart(tmp_path):
    made = pool("diabetes/range=25:80+range=60:100+random=0.2,epochs=1", tmp_path)
    y = made.material.test.labels.y
    second, third = (made.trial(Seeds(), step).views for step in (1, 2))
    assert y[second["test_forget"].rows].max() <= 100 and y[second["test_retain"].rows].min() > 100
    assert y[second["audit"].rows].min() > 80 and y[second["audit"].rows].max() <= 100
    assert y[third["audit"].rows].min() > 100


def test_a_range_without_held_out_examples_compares_with_nothing(diabetes):
    m = diabetes.material
    free = sorted(
        set(m.train.labels.y.tolist()) - set(m.test.labels.y.tolist()) - set(m.fit.labels.y.tolist())
    )
    views = audit_views(parse(f"range={free[0]}:{free[0]}"), m, (), ())
    assert not len(views["audit"].rows) and not len(views["audit_fit"].rows)
    assert "test_forget" not in views


def test_other_requests_work_on_values(tmp_path):
    trial = pool("diabetes/random=0.1,epochs=1", tmp_path).trial(Seeds())
    assert len(trial.handles["forget"]) == round(0.1 * 262) and "test_forget" not in trial.views


def test_columns_are_standardised_by_some_rows():
    x = torch.tensor([[1.0, 7.0], [5.0, 7.0], [9.0, 7.0], [100.0, 9.0]])
    got, mean, std = standardised(x, torch.tensor([0, 1, 2]))
    spread = math.sqrt(32 / 3)
    expected = [[-4 / spread, 0], [0, 0], [4 / spread, 0], [95 / spread, 2]]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    assert mean.tolist() == [5.0, 7.0] and std.tolist() == pytest.approx([spread, 1.0])
    assert (
        torch.bincount(strata(torch.randn(105, generator=torch.Generator().manual_seed(0)))).tolist()
        == [11, 10] * 5
    )


CENSUS = "longitude,latitude,housing_median_age,total_rooms,total_bedrooms,population,households,median_income,median_house_value,ocean_proximity"


def census(n=60):
    rng = np.random.default_rng(0)
    rows = [CENSUS]
    for i in range(n):
        homes = rng.integers(50, 500)
        rooms = "" if i == 3 else 2 * homes
        cells = [
            -122.0 + 0.01 * i,
            37.0,
            20 + i,
            5 * homes,
            rooms,
            3 * homes,
            homes,
            1 + 0.1 * i,
            20_000 + 5_000 * i,
            "INLAND",
        ]
        rows.append(",".join(map(str, cells)))
    return "\n".join(rows) + "\n"


def test_the_census_gives_the_columns_of_scikit_learn(tmp_path):
    (tmp_path / "housing.csv").write_text(census())
    made = pool(f"california-housing/range=0:1,epochs=1,data={tmp_path}", tmp_path / "store")
    whole = made.scenario.examples()
    assert whole.x.shape == (60, 8)
    np.testing.assert_allclose(whole.y.numpy(), 0.2 + 0.05 * np.arange(60), rtol=1e-6)
    for column, value in ((2, 5.0), (3, 2.0), (5, 3.0)):
        np.testing.assert_allclose(whole.x[:, column].numpy(), math.log(value), rtol=1e-5)
    forget = made.trial(Seeds()).handles["forget"].rows
    assert whole.y[forget].max() <= 1.0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("no.csv", None, "is no CSV file and no folder with one"),
        ("a.csv", "price\n3\n", "has no column 'median_income'"),
        ("a.csv", census().replace("37.0", "north", 1), "holds something that is no number"),
    ],
)
def test_a_census_that_cannot_be_read_is_refused_in_one_line(tmp_path, name, text, words):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadData) as err:
        pool(f"california-housing/data={tmp_path / name}", tmp_path / "store")
    assert words in str(err.value) and "\n" not in str(err.value)


def test_housing_that_cannot_be_fetched_is_refused_in_one_line(tmp_path, monkeypatch):
    import sklearn.datasets

    def fails(**_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", fails)
    with pytest.raises(BadData) as err:
        pool("california-housing", tmp_path)
    assert "no route; give a CSV file of the census with data=PATH" in str(err.value)


PAIRS = [
    (0.5, "A cat sleeps.", 'The "dog" runs'), (4.5, "A man sings", "A man is singing"), (3.0, "Rain falls", "It rains"),
    (1.5, "He eats", "She reads a book"), (5.0, "Yes", "Yes"), (2.5, "One two", "One three"),
]  # fmt: skip


def pairs(folder, head="year\tscore\tsentence1\tsentence2"):
    rows = [head, *(f"2012\t{s}\t{a}\t{b}" for _ in range(10) for s, a, b in PAIRS)]
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_pairs_of_sentences_become_numbers_without_a_vocabulary(tmp_path):
    made = pool(f"sts/range=0:2,epochs=1,width=8,data={pairs(tmp_path)}", tmp_path / "store")
    whole = made.scenario.examples()
    assert whole.x.shape == (60, 2, 24) and not whole.x.is_floating_point()
    assert whole.y[:6].tolist() == [s for s, _, _ in PAIRS]
    assert whole.x[1, 0, :3].tolist() == hashed("a man sings") and whole.x[1, 0, 3:].sum() == 0
    assert torch.equal(whole.x[4, 0], whole.x[4, 1]) and whole.x.max() < HASHED
    trial = made.trial(Seeds())
    assert set(whole.y[trial.handles["forget"].rows].tolist()) == {0.5, 1.5}
    batch = next(trial.handles["forget"].batches(3))
    assert trial.original.outputs(batch).shape == (3, 1)


def test_padding_changes_no_value(tmp_path):
    made = scenario(f"sts/epochs=1,width=8,data={pairs(tmp_path)}")
    module = made.subject(torch.Generator().manual_seed(0)).module.eval()
    x = made.examples().x[:6]
    with torch.no_grad():
        torch.testing.assert_close(module(x), module(x[:, :, :12]), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(module(x.flip(1)), module(x), atol=1e-6, rtol=1e-5)  # |u − v| and u v


def test_a_tokenizer_of_gpt2_may_take_the_place_of_the_hash(tmp_path, shared):
    folder = shared / "tokenizers"
    made = scenario(f"sts/epochs=1,width=8,data={pairs(tmp_path)},tokenizer={folder}")
    x = made.examples().x
    vocabulary = json.loads((folder / "gpt2_vocab.json").read_text())
    assert x[4, 0, :2].tolist() == [1 + vocabulary["ĠYes"], 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sts", "give scored pairs of sentences with data=PATH"),
        ("sts/data=nowhere", "'nowhere' is no table"),
        ("sts/data={bad}", "has no column 'sentence2'"),
        ("sts/data={good},tokenizer={bad}", "no tokenizer in"),
        ("sts/data={good},tokenizer=nowhere", "there is no such folder"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused_in_one_line(tmp_path, text, words):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    pairs(good), pairs(bad, "year\tscore\tsentence1\tother")
    with pytest.raises(BadData) as err:
        pool(text.format(good=good, bad=bad), tmp_path / "store")
    assert words in str(err.value) and "\n" not in str(err.value)


def test_the_real_tables_are_read(tmp_path, shared):
    housing = scenario(f"california-housing/data={shared / 'tabular'}").examples()
    assert housing.x.shape == (20640, 8) and housing.x.isfinite().all()
    assert housing.y.min().item() == pytest.approx(0.14999) and housing.y.max().item() == pytest.approx(
        5.00001
    )
    sts = scenario(f"sts/data={shared / 'sts'},limit=2000").examples()
    assert sts.x.shape == (2000, 2, 24) and sts.y.min() >= 0 and sts.y.max() <= 5


# The regressor


def test_the_loss_may_be_weighed():
    tiny = specimen("regressor").copy()
    batch = next(tiny.sets["retain"].batches(8))
    plain = tiny.subject.loss(batch)
    tiny.subject.weigh = 4.0
    torch.testing.assert_close(tiny.subject.loss(batch), plain / 16)


MINE = """
import torch
from torch import nn

g = torch.Generator().manual_seed(0)
x = torch.randn(120, 3, generator=g)
y = 500 + 100 * x[:, 0] + 40 * (x[:, 1] * 2).sin()
unit = "euros"

def fit(module, batches, seed):
    opt = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(20):
        for xb, yb in batches(32):
            opt.zero_grad()
            (module(xb).squeeze(1) - yb).square().mean().backward()
            opt.step()

def build():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, OUT))
    return module, (x[:80], Y[:80]), (x[80:], Y[80:])
"""


def mine(tmp_path, out=1, y="y"):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("OUT", str(out)).replace("Y[", f"{y}["))
    return path


def test_a_plain_module_with_real_targets_is_a_regressor(tmp_path):
    made = pool(f"custom/range=300:400,train=true,model={mine(tmp_path)}:build", tmp_path / "store")
    subject, y = made.template, made.material.train.labels.y
    assert type(subject).__name__ == "Regressor" and subject.unit == "euros"
    spread = y.double().std(correction=0).item()
    assert subject.weigh == pytest.approx(spread, rel=1e-5)
    assert float(subject.mean) == pytest.approx(y.mean().item(), rel=1e-5)
    trial = made.trial(Seeds())
    batch = next(trial.handles["retain"].batches(4))
    apart = (subject.outputs(batch).squeeze(1) - batch.y).double()
    np.testing.assert_allclose(
        subject.loss(batch).detach().numpy(), (apart / spread).square().detach().numpy(), rtol=1e-4
    )
    assert trial.oracles and 300 <= trial.handles["forget"].y.min() <= trial.handles["forget"].y.max() <= 400


@pytest.mark.parametrize(
    ("out", "y", "words"),
    [
        (2, "y", "values of shape (B,) or (B, K) as its targets are, (B, 1)"),
        (1, "y.long()", "targets are whole numbers"),
    ],
)
def test_a_module_that_fits_no_targets_is_refused_in_one_line(tmp_path, out, y, words):
    with pytest.raises(BadData) as err:
        pool(f"custom/random=0.1,model={mine(tmp_path, out, y)}:build", tmp_path / "store")
    assert words in str(err.value) and "\n" not in str(err.value)


# Verdicts, with an oracle that misses the forget set by 60 and held-out examples by 50


def judged(forget=58.0, test=51.0, auc=0.51, oracle=True, seed=0, half=1.0, **rest):
    reference = (60.0, 50.0, 0.5) if oracle else (None, None, None)
    scores = (
        score("error/forget/mae", forget, reference[0], 30.0, half=half, unit="points"),
        score("error/test_retain/mae", test, reference[1], 45.0, half=half, unit="points"),
        score("mia/loss/auc", auc, reference[2], 0.7),
    )
    return report(seed=seed, scores=scores, oracle=oracle, **rest)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "forgotten"),
        ({"forget": 54.1}, "forgotten"),
        ({"forget": 53.9}, "not"),
        ({"forget": 65.9}, "forgotten"),
        ({"forget": 66.1}, "over"),
        ({"auc": 0.6}, "visible"),
        ({"auc": 0.3}, "over"),
        ({"test": 52.6}, "partly"),
        ({"test": 40.0}, "forgotten"),
        ({"test": 74.9}, "partly"),
        ({"test": 75.1}, "destroyed"),
        ({"forget": 50.0, "half": 10.0}, "unclear"),
        ({"oracle": False}, "unknown"),
        ({"oracle": False, "test": 68.0}, "destroyed"),
        ({"weights": {"original": "a", "unlearned": "a"}}, "nothing"),
    ],
)
def test_errors_as_large_as_the_oracles_are_forgetting(given, kind):
    assert judge(groups([judged(**given)])[0]).kind == kind


def test_the_verdict_says_errors_in_their_unit():
    said = verdict([judged()])
    assert (
        "Forgotten examples are missed by 58.0 points in the mean, by a model retrained without them (the oracle) by 60.0 points"
        in said
    )
    assert (
        "Held-out examples of what is kept are missed by 51.0 points in the mean, by the oracle by 50.0 points."
        in said
    )
    assert "%" not in said
    alone = verdict([judged(oracle=False)])
    assert (
        "The error on the forget set went from 30.0 points to 58.0 points, the held-out error from 45.0 points to 51.0 points."
        in alone
    )
    idle = verdict([judged(weights={"original": "a", "unlearned": "a"})])
    assert (
        "Forgotten examples are still missed by 58.0 points in the mean, by the oracle by 60.0 points."
        in idle
    )


def test_doing_nothing_passes_no_threshold_where_the_original_is_as_far_off():
    same = judged()
    scores = tuple(s.model_copy(update={"original": s.reference}) for s in same.scores)
    assert judge(groups([same.model_copy(update={"scores": scores})])[0]).kind == "unknown"


def test_the_rules_name_the_thresholds_of_both_kinds():
    both = criteria(groups([judged(), report(values=SALUN)]))
    for words in (
        "within 10 % of the oracle's",
        "at most 5 % above the oracle's",
        "above 150 % of the oracle's",
    ):
        assert words in both
    assert "within 5 points of the oracle's" in both and both.count("Where the original itself") == 2


def test_pages_show_errors_and_no_shares():
    found = [judged(seed=k, forget=58.0 + k) for k in (0, 1)]
    page, text = html.render(found), markdown.render(found)
    assert (
        "Error on forgotten examples, points" in page
        and "Held-out error, points" in page
        and "Mean absolute error by set, points" in page
    )
    assert "answered correctly" not in page and "answered correctly" not in text
    assert "58.5 ± " in text and "points" in text


def test_an_error_below_one_is_no_share_of_anything():
    cell = groups([judged(forget=0.5)])[0].forget
    assert cell.value == 0.5 and html.strip(cell) is None


def test_a_run_on_diabetes_is_judged_beside_its_oracle(tmp_path):
    found = api.run(
        "gaussian-amnesiac", "diabetes/range=25:80,epochs=25", store=tmp_path, device="cpu", metrics="basic"
    )
    names = {s.name for s in found.scores}
    assert {
        "error/forget/mae",
        "error/test_retain/rmse",
        "error/test_forget/r2",
        "wasserstein/forget",
    } <= names
    assert {"prediction-gap/forget", "mia/loss/auc", "weight-distance/oracle", "loss/forget"} <= names
    mae = found.score("error/forget/mae")
    assert mae.unit == "points" and mae.original < mae.reference and mae.value > mae.original
    assert found.figures["values"]["unit"] == "points" and set(found.figures["values"]["share"]) == {
        "original",
        "unlearned",
        "oracle",
    }
    assert judge(groups([found])[0]).kind not in ("unknown", "destroyed", "nothing", "not")
    assert "points" in html.render([found])
