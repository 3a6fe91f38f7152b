"""The benchmark of the evidence says in its exit status whether a figure misses what is asked."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "bench" / "evidence.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("evidence", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(bench, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evidence.py", *words])
    bench.main()


def test_what_is_asked_and_holds_says_nothing(bench, monkeypatch, capsys):
    times = iter([(0.001, None)] * 5 + [(2.0, None)])
    monkeypatch.setattr(bench, "timed", lambda work: next(times))
    run(bench, monkeypatch, "threshold", "--examples", "40")
    assert "ratio 2,000 (asked: 1,000)" in capsys.readouterr().out


def test_a_figure_that_misses_is_one_line_and_status_1(bench, monkeypatch, capsys):
    times = iter([(0.001, None)] * 5 + [(0.999, None)])
    monkeypatch.setattr(bench, "timed", lambda work: next(times))
    with pytest.raises(SystemExit) as err:
        run(bench, monkeypatch, "threshold", "--examples", "40")
    assert err.value.code == "missed: exact attack 1,000 times as fast", (
        "a text is printed to standard error, with status 1"
    )
    assert "ratio 999" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cold", "basic", "fast", "misses"),
    [(34, 5, 20, []), (36, 5, 20, ["fast suite in 35 s"]), (36, 5, 21, ["fast suite in 35 s", "fast suite adds 15 s"])],
)  # fmt: skip
def test_the_fast_suite_is_held_to_its_seconds(bench, monkeypatch, cold, basic, fast, misses):
    monkeypatch.setattr(bench, "_run", lambda *_: None)
    times = iter([cold, basic, fast])
    monkeypatch.setattr(bench, "timed", lambda work: (next(times), work()))
    assert bench.suite(None) == misses


@pytest.mark.parametrize(("said", "misses"), [(51, 0), (199, 0), (49, 3), (201, 3)])
def test_a_plan_is_held_to_a_factor_of_two(bench, monkeypatch, said, misses):
    from types import SimpleNamespace

    monkeypatch.setattr(bench.api, "plan", lambda *_: SimpleNamespace(seconds=said))
    monkeypatch.setattr(bench, "timed", lambda work: (100.0, None))
    found = bench.plan(None)
    assert len(found) == misses and all("within a factor of 2" in f for f in found)
