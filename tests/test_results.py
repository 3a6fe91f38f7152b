"""What the methods declare as expected failures is what the published results show, no more and no less."""

from pathlib import Path

import pytest

from unlearn.registry import fitting, methods
from unlearn.report import Report
from unlearn.report.summary import groups
from unlearn.report.verdict import judge

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FAILED = {"not", "destroyed", "over", "visible", "nothing"}
NOT_COMPARED = {"given"}  # somebody else's weights are no method
FITTING = [n for n in fitting("classifier") if n not in NOT_COMPARED]
ERASING = [
    n for n in fitting("text-to-image") if n not in NOT_COMPARED | {"retrain"}
]  # the oracle is shipped
FOLDERS = {
    "class": "digits-class-3",
    "random": "digits-random-0.1",
    "noisy": "digits-noisy",
    "concept": "ink-three",
}
CLASSIFYING = [k for k in FOLDERS if k != "concept"]
RECORDED = {kind: f"digits-recorded-{kind}" for kind in CLASSIFYING}
REFUSING = {"scar-self", "unsir"}  # remove whole classes only


def reports(kind, method):
    folder = (RECORDED if method == "amnesiac-true" else FOLDERS)[kind]
    return [Report.load(p) for p in sorted((RESULTS / folder).glob(f"{method}-seed-*.json"))]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((k, m) for k in CLASSIFYING for m in (*FITTING, "amnesiac-true") if m != "none"),
        *(("concept", m) for m in ERASING if m != "none"),
    ],
)
def test_expected_failures_are_those_that_were_seen(method, kind):
    found = reports(kind, method)
    failed = not found or judge(groups(found)[0]).kind in FAILED
    assert (kind in methods.get(method).expected_failures) == failed


@pytest.mark.parametrize("kind", CLASSIFYING)
def test_three_seeds_stand_behind_every_row(kind):
    counts = {n: len(reports(kind, n)) for n in FITTING}
    assert {n: c for n, c in counts.items() if c != 3} == (
        {} if kind == "class" else dict.fromkeys(REFUSING, 0)
    )


@pytest.mark.parametrize("concept", ["three", "seven", "chalk"])
def test_three_seeds_and_an_attack_stand_behind_every_erasure(concept):
    folder = RESULTS / f"ink-{concept}"
    for name in ERASING:
        found = [Report.load(p) for p in sorted(folder.glob(f"{name}-seed-*.json"))]
        assert [r.seeds["method"] for r in found] == [0, 1, 2], name
        for when in ("pre", "post"):
            assert found[0].score(f"attack/inversion/{when}").value is not None


@pytest.mark.parametrize("attack", ["inversion", "lora-relearn"])
def test_what_esd_erased_is_brought_back_and_the_oracle_knows_nothing(attack):
    """Recovery of at least 0.3, as the specification asks, while the oracle stays below a tenth."""
    (report,) = [r for r in reports("concept", "esd") if r.seeds["method"] == 0]
    pre, post = (report.score(f"attack/{attack}/{when}") for when in ("pre", "post"))
    assert pre.value <= 0.1 and post.value >= pre.value + 0.3
    assert post.reference <= 0.1


def test_raw_json_names_no_place_of_a_machine():
    for path in RESULTS.rglob("*.json"):
        text = path.read_text()
        assert "/work" not in text
        assert "/tmp" not in text
        assert "/home" not in text
