"""Every table that `bench/sheets.py` describes is there, with its seeds, its oracle and the row of doing nothing."""

import importlib.util
from pathlib import Path

import pytest

from unlearn.registry import fitting
from unlearn.report import Report
from unlearn.scenario import parse, steps

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
ONE_SEED = {"cifar10-resnet20-class-cat", "cifar10-resnet20-class-deer"}  # beside ship, which has three


def described():
    spec = importlib.util.spec_from_file_location("sheets", ROOT / "bench" / "sheets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SHEETS


SHEETS = described()


def numbers(folder, name, preset):
    """Seed and step of the reports of a run."""
    found = folder.glob(f"{name}{'-' + preset if preset else ''}-seed-*.json")
    return sorted((r.seeds["method"], r.recipe["step"]) for r in map(Report.load, found))


@pytest.mark.parametrize("place", SHEETS)
def test_every_run_has_its_seeds_or_its_reason(place):
    sheet, page = SHEETS[place], (RESULTS / f"{place}.md").read_text()
    wanted = [(s, k) for s in sheet.seeds for k in range(len(steps(parse(sheet.scenario).request)))]
    assert len(sheet.seeds) >= 3 or place in ONE_SEED
    for name, preset in sheet.runs:
        found = numbers(RESULTS / place, name, preset)
        assert found == wanted or (not found and f"- {name}: " in page), (name, preset)


@pytest.mark.parametrize("place", SHEETS)
def test_oracle_and_doing_nothing_have_a_row(place):
    page = (RESULTS / f"{place}.md").read_text()
    assert "| oracle |" in page and "| none" in page
    assert ("there is no oracle" in page) == ("weights=" in SHEETS[place].scenario)


@pytest.mark.parametrize("place", [p for p, s in SHEETS.items() if s.more])
def test_every_further_score_is_a_column(place):
    header = next(x for x in (RESULTS / f"{place}.md").read_text().splitlines() if x.startswith("| method"))
    columns = {c.split()[0] for c in header.split("|")[1:-1]}
    assert set(SHEETS[place].more) <= columns


def test_the_page_of_published_settings_says_what_it_lacks():
    sheet = SHEETS["digits-class-3-published"]
    missing = set(fitting("classifier")) - {name for name, _ in sheet.runs} - {"given"}
    assert {n for n in missing if n not in sheet.left_out} == set()


def test_no_folder_of_results_is_without_a_description():
    others = {"evidence", "tuning", "ink-three", "ink-seven", "ink-chalk"}  # made by other scripts
    assert {p.name for p in RESULTS.iterdir() if p.is_dir()} == others | SHEETS.keys()
