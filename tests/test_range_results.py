"""What methods for regressors declare as expected failures is what the published results show."""

from pathlib import Path

import pytest

from unlearn.registry import fitting, methods
from unlearn.report import Report
from unlearn.report.summary import groups
from unlearn.report.verdict import judge

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FOLDERS = sorted(p.name for p in RESULTS.glob("*-range") if p.is_dir())
FAILED = {"not", "destroyed", "over", "visible", "nothing"}
TOO_SHALLOW = {"cf-k", "eu-k"}  # by default of four layers, and this network has three
COMPARED = [n for n in fitting("regressor") if n not in {"given", "none"} | TOO_SHALLOW]
EIGHT = {
    "retrain", "none", "finetune", "neggrad-plus", "random-labels", "salun", "gaussian-amnesiac", "blindspot",
}  # fmt: skip


def reports(folder, method):
    return [Report.load(p) for p in sorted((RESULTS / folder).glob(f"{method}-seed-*.json"))]


@pytest.mark.parametrize("method", COMPARED)
def test_expected_failures_on_a_range_are_those_that_were_seen(method):
    found = reports("diabetes-range", method)
    assert [r.seeds["method"] for r in found] == [0, 1, 2]
    assert ("range" in methods.get(method).expected_failures) == (judge(groups(found)[0]).kind in FAILED)


@pytest.mark.parametrize("folder", FOLDERS)
def test_three_seeds_stand_behind_every_row(folder):
    assert {"diabetes-range", "california-range"} <= set(FOLDERS)
    for name in EIGHT:
        assert [r.seeds["method"] for r in reports(folder, name)] == [0, 1, 2], name


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_thresholds_tell_retraining_from_doing_nothing(folder):
    kinds = {name: judge(groups(reports(folder, name))[0]).kind for name in ("retrain", "none")}
    assert kinds["none"] == "nothing" and kinds["retrain"] in ("forgotten", "unclear")
    (none,) = groups(reports(folder, "none"))
    assert none.forget.original < 0.9 * none.forget.reference
