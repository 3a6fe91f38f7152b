"""The command line as a user meets it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from terminal import FAST, refused

from unlearn import cli
from unlearn.report import SCHEMA, Report

HEAVY = [
    "torch",
    "diffusers",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "pydantic",
    "jinja2",
    "transformers",
    "datasets",
]

pytestmark = pytest.mark.xdist_group("cli")  # one store serves the folder


def test_help_names_every_command(unlearn):
    code, out, _ = unlearn("--help")
    assert code == 0
    for word in (
        "run",
        "erase",
        "methods",
        "metrics",
        "scenarios",
        "show",
        "report",
        "compare",
        "replay",
        "check",
        "store",
    ):
        assert word in out


@pytest.mark.parametrize("word", ["--help", "methods", "metrics", "scenarios"])
def test_help_and_listings_import_nothing_heavy(word):
    code = f"""
import sys
sys.argv = ["unlearn", {word!r}]
from unlearn.cli import main
try:
    main()
except SystemExit:
    print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_every_command_has_json():
    def leaves(command, name):
        for word, inner in getattr(command, "commands", {}).items():
            yield from leaves(inner, f"{name} {word}")
        if not hasattr(command, "commands"):
            yield name, {option for p in command.params for option in p.opts}

    found = dict(leaves(typer.main.get_command(cli.build()), "unlearn"))
    assert len(found) == 26
    assert [name for name, options in found.items() if "--json" not in options] == []


@pytest.mark.parametrize("kind", ["methods", "metrics", "scenarios"])
def test_listings_as_tables_and_json(unlearn, kind):
    code, out, _ = unlearn(kind)
    assert code == 0
    code, text, _ = unlearn(kind, "--json")
    names = [e["name"] for e in json.loads(text)]
    assert code == 0
    assert all(n in out for n in names)


def test_the_matrix_fits_salun_to_classifiers_and_diffusion(unlearn):
    found = {e["name"]: e["subjects"] for e in json.loads(unlearn("methods", "--json")[1])}
    assert {"classifier", "regressor", "text-to-image"} <= set(found["salun"])
    assert "classifier" in found["duck"]
    assert "text-to-image" not in found["duck"]


def test_show_explains_a_method(unlearn):
    code, out, _ = unlearn("show", "salun")
    assert code == 0
    for word in (
        "arXiv:2310.12508",
        "--rho",
        "> 0 and <= 1",
        "Fits: ",
        "Reads: forget, retain",
        "Preset paper",
    ):
        assert word in out
    fields = json.loads(unlearn("show", "ssd", "--json")[1])["fields"]
    assert {"name": "alpha", "bounds": {"gt": 0}}.items() <= {
        k: fields[0][k] for k in ("name", "bounds")
    }.items()


def test_hyper_parameters_are_options(unlearn):
    out = unlearn("run", "salun", "--help")[1]
    assert "--rho" in out
    assert "Hyper-parameters of salun" in out
    both = unlearn("run", "salun", "ssd", "--help")[1]
    assert "--ssd.alpha" in both
    assert "--salun.lr" in both


def test_run_prints_a_table_with_the_oracle_and_the_page(unlearn, made, store):
    code, out, _ = unlearn("run", "ssd", *FAST)
    assert code == 0
    for word in ("original", "unlearned", "oracle", "gap", "aim", "accuracy/forget", "seconds"):
        assert word in out
    page = Path(out.rpartition("Report: ")[2].strip())
    assert page.read_text().lower().startswith("<!doctype html>")


def test_a_second_run_trains_nothing(unlearn, made, store):
    before = {p: p.stat().st_mtime_ns for p in (store / "trained").iterdir()}
    code, _, _ = unlearn("run", "neggrad", *FAST)
    assert code == 0
    assert {p: p.stat().st_mtime_ns for p in (store / "trained").iterdir()} == before


def test_values_of_several_methods_are_kept_apart(unlearn, made):
    code, out, _ = unlearn("run", "ssd", "none", "--ssd.alpha", "7.5", *FAST, "--json")
    assert code == 0
    ssd, none = json.loads(out)
    assert ssd["recipe"]["method"]["values"]["alpha"] == 7.5
    assert none["recipe"]["method"]["values"] == {}


def test_presets_take_the_published_setting(unlearn, made):
    code, out, _ = unlearn("run", "bad-teacher", "--preset", "paper", *FAST, "--json")
    values = json.loads(out)[0]["recipe"]["method"]["values"]
    assert code == 0
    assert (values["lr"], values["batch_size"]) == (1e-4, 256)


def test_report_renders_again(unlearn, made, tmp_path):
    run = made[0].id[:8]
    assert unlearn("report", run)[0] == 0
    page = tmp_path / "page.html"
    assert unlearn("report", run, "--html", page)[0] == 0
    assert page.exists()
    assert "accuracy/forget" in unlearn("report", run, "--markdown")[1]
    assert json.loads(unlearn("report", run, "--json")[1])[0]["id"] == made[0].id


def test_the_schema_is_published_and_reports_keep_it(unlearn, made):
    import jsonschema

    schema = json.loads(unlearn("report", "--schema")[1])
    assert schema["$id"] == f"unlearn-report-{SCHEMA}"
    for report in made:
        jsonschema.validate(report.model_dump(mode="json"), schema)


def test_compare_puts_runs_into_one_table(unlearn, made):
    ids = [r.id[:8] for r in made]
    out = unlearn("compare", *ids)[1]
    assert "ssd" in out
    assert "none" in out
    found = json.loads(unlearn("compare", *ids, "--json")[1])
    assert [g["method"] for g in found] == ["ssd", "none"]
    refused(unlearn("compare", ids[0]), "at least two")


def test_replay_gives_the_same_bits(unlearn, made, tmp_path):
    path = tmp_path / "reports.json"
    path.write_text(json.dumps([r.model_dump(mode="json") for r in made]))
    code, out, _ = unlearn("replay", path)
    said = "on digits/class=3,epochs=2, seed 0: the unlearned weights are bit-identical"
    assert (code, out.splitlines()) == (0, [f"ssd {said}", f"none {said}"])


def test_replay_tells_when_weights_differ(unlearn, made, tmp_path):
    path = tmp_path / "report.json"
    made[0].model_copy(update={"weights": {**made[0].weights, "unlearned": "0" * 64}}).save(path)
    code, out, _ = unlearn("replay", path)
    assert (code, out.strip()) == (1, "ssd on digits/class=3,epochs=2, seed 0: the unlearned weights differ")
    code, out, _ = unlearn("replay", made[1].id[:8], path, "--json")
    assert code == 1
    found = json.loads(out)
    assert [f["identical"] for f in found] == [True, False]
    assert found[1]["weights"] == made[0].weights, "what came out now, not what the report says"


def test_out_writes_the_unlearned_weights(unlearn, made, tmp_path):
    from unlearn.patch import load_tensors, weights_hash

    path = tmp_path / "unlearned.safetensors"
    assert unlearn("run", "ssd", *FAST, "--out", path)[0] == 0
    assert weights_hash(load_tensors(path)) == made[0].weights["unlearned"]
    refused(unlearn("run", "ssd", "none", *FAST, "--out", path), "--out writes one model")


def test_weights_are_never_pickled(unlearn, made, tmp_path):
    refused(unlearn("run", "ssd", *FAST, "--out", tmp_path / "o.pt"), "safetensors, never pickled")


def test_floors_do_not_cut_numbers_on_a_narrow_terminal(unlearn, capsys, monkeypatch):
    assert unlearn("run", "none", *FAST, "--oracles", "2")[0] == 0
    env = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "unlearn", "run", "none", *FAST, "--oracles", "2"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    head = next(line for line in done.stdout.splitlines() if "unlearned" in line)
    assert head.split() == ["score", "original", "unlearned", "oracle", "gap", "floor", "aim"]
    assert max(map(len, done.stdout.splitlines())) <= 200


@pytest.mark.parametrize("request_", ["class=3", "random=0.1", "indices=" + ":".join(map(str, range(30)))])
def test_the_printed_command_makes_the_same_run(unlearn, made, request_):
    from unlearn.report.reproduce import command

    words = [
        "run",
        "ssd",
        "--scenario",
        f"digits/{request_},epochs=2",
        "--metrics",
        "accuracy",
        "--alpha",
        "4.5",
    ]
    first = json.loads(unlearn(*words, "--json")[1])[0]
    printed = shlex.split(command(Report.model_validate(first)))
    again = json.loads(unlearn(*printed[1:], "--metrics", "accuracy", "--json")[1])[0]
    assert again["recipe"] == first["recipe"]


def test_shell_completion_offers_methods_and_their_options(tmp_path):
    env = {**os.environ, "_UNLEARN_COMPLETE": "complete_bash", "UNLEARN_STORE": str(tmp_path)}

    def complete(words, at):
        found = subprocess.run(
            ["unlearn"], executable=str(Path(sys.executable).with_name("unlearn")), capture_output=True, text=True,
            env={**env, "COMP_WORDS": words, "COMP_CWORD": str(at)}, check=False,
        )  # fmt: skip
        return found.stdout.split()

    assert "salun" in complete("unlearn run sa", 2)
    assert "--rho" in complete("unlearn run salun --r", 3)


def test_check_runs_the_kit_on_a_plugin(unlearn, tmp_path):
    good = Path(__file__).parents[2] / "examples" / "my_method.py"
    code, out, _ = unlearn("check", good)
    assert code == 0, out
    assert "checks passed" in out
    bad = tmp_path / "bad.py"
    text = good.read_text().replace("run.rng", "None").replace("gentle-ascent", "bad-ascent")
    bad.write_text(text.replace("HasLoss", "Classifies"))
    code, out, _ = unlearn("check", bad)
    assert code == 1
    assert "FAILED bad-ascent: " in out
    code, text, _ = unlearn("check", bad, "--json")
    found = json.loads(text)
    assert code == 1
    assert out.count("FAILED") == len(found["failed"]) < found["checks"]
    empty = tmp_path / "empty.py"
    empty.write_text("")
    refused(unlearn("check", empty), "registers no plugin")
