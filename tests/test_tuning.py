"""Defaults come from recorded trials, not from anybody's memory."""

import json
from pathlib import Path

import pytest

from unlearn.registry import fitting, methods

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "tuning"
RECORDS = {p.stem: json.loads(p.read_text()) for p in sorted(FOLDER.glob("*.json"))}
TUNABLE = [n for n in fitting("classifier") if any(k.search for k in methods.get(n).knobs())]
OTHERS = [
    "amnesiac-true",
    "blindspot",
    "gaussian-amnesiac",
    "i2i",
    "i2i-diffusion",
    "slug-encoder",
]  # of recorded originals, of regressors, of completed and drawn images, of encoders


@pytest.mark.parametrize("name", TUNABLE + OTHERS)
def test_the_default_is_among_the_recorded_trials(name):
    record = RECORDS[name]
    later = {k.name: k.default for k in methods.get(name).knobs()}  # fields that came after the trials
    tried = [{**later, **record["default"], **t["values"]} for t in record["trials"]]
    tried = [{k: v for k, v in t.items() if k in later} for t in tried]  # some fields have gone since
    if name == "ssd":  # λ was rounded from 0.98
        tried = [{**t, "lam": round(t["lam"], 1)} for t in tried]
    assert methods.get(name)().to_dict() in tried


@pytest.mark.parametrize("name", list(RECORDS))
def test_every_method_had_the_same_budget(name):
    assert len(RECORDS[name]["trials"]) == 9


@pytest.mark.parametrize("name", list(RECORDS))
def test_no_test_data_and_no_results_seed_was_used(name):
    for trial in RECORDS[name]["trials"]:
        assert all(place.endswith(("seed 100", "seed 101")) for place in trial["parts"])
