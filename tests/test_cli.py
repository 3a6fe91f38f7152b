"""The command line as a user meets it: output, exit codes, one-line errors."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlearn import cli
from unlearn.report import SCHEMA, Report

pytestmark = pytest.mark.xdist_group("cli")  # one store serves the file
FAST = ["--scenario", "digits/class=3,epochs=2", "--metrics", "accuracy,mia"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def call(capsys, monkeypatch, *argv):
    """Runs the command in this process; its exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, argv)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code, out, err


@pytest.fixture
def unlearn(capsys, monkeypatch, store):
    def run(*argv, at=store):
        monkeypatch.setenv("UNLEARN_STORE", str(at))
        return call(capsys, monkeypatch, *argv)

    return run


@pytest.fixture(scope="module")
def made(store):
    """Two reports in the module's store."""
    command = [sys.executable, "-m", "unlearn", "run", "ssd", "none", *FAST, "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Report.model_validate(r) for r in json.loads(done.stdout)]


def refused(result, *words):
    """Exit code 2, one line on standard error that holds these words, no traceback."""
    code, out, err = result
    assert code == 2, (out, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Pydantic" not in err
    for word in words:
        assert word in err


def test_help_names_every_command(unlearn):
    code, out, _ = unlearn("--help")
    assert code == 0
    for word in (
        "run",
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


def test_help_and_listings_import_no_torch():
    for words in (["--help"], ["methods"], ["metrics"], ["scenarios"]):
        code = f"import sys; sys.argv = ['unlearn', *{words}]\nfrom unlearn.cli import main\ntry: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


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
    code, out, _ = unlearn("run", "ssd", "--preset", "paper", *FAST, "--json")
    values = json.loads(out)[0]["recipe"]["method"]["values"]
    assert code == 0
    assert (values["alpha"], values["importance"]) == (10.0, "batch")


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
    path = tmp_path / "report.json"
    made[0].save(path)
    code, out, _ = unlearn("replay", path)
    assert (code, out.strip()) == (0, "the unlearned weights are bit-identical")


def test_replay_tells_when_weights_differ(unlearn, made, tmp_path):
    path = tmp_path / "report.json"
    made[0].model_copy(update={"weights": {**made[0].weights, "unlearned": "0" * 64}}).save(path)
    code, out, _ = unlearn("replay", path)
    assert (code, out.strip()) == (1, "the unlearned weights differ")


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


def test_store_commands(unlearn, made, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "ssd", *FAST, at=at)[0] == 0
    kinds = {e["kind"] for e in json.loads(unlearn("store", "ls", "--json", at=at)[1])}
    assert kinds == {"trained", "unlearned", "outputs", "report"}
    assert unlearn("store", "verify", at=at)[0] == 0
    victim = next((at / "unlearned").iterdir()) / "patch.safetensors"
    victim.write_bytes(victim.read_bytes()[:-8])
    code, out, _ = unlearn("store", "verify", at=at)
    assert code == 1
    assert "patch.safetensors" in out
    assert len(json.loads(unlearn("store", "gc", "--json", at=at)[1])["removed"]) == 1
    assert unlearn("store", "verify", at=at)[0] == 0


def test_purge_removes_what_saw_the_forgotten_data(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "ssd", *FAST, at=at)[0] == 0
    code, out, _ = unlearn("store", "purge", "digits/class=3,epochs=2", "--json", at=at)
    removed = json.loads(out)["removed"]
    assert code == 0
    left = json.loads(unlearn("store", "ls", "--json", at=at)[1])
    assert sum(r.startswith("trained/") for r in removed) == 1
    assert [e["kind"] for e in left].count("trained") == 1, "the oracle never saw them and stays"
    assert not any(e["kind"] == "unlearned" for e in left)
    assert any(e["kind"] == "report" for e in left)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "sallun"], ["no method called 'sallun'", "did you mean 'salun'?"]),
        (["run", "ssd", "--metrics", "acuracy"], ["no metric called 'acuracy'", "did you mean 'accuracy'?"]),
        (["run", "ssd", "--scenario", "digit"], ["no scenario called 'digit'", "did you mean 'digits'?"]),
        (["run", "ssd", "--scenario", "digits/class=11"], ["no class called '11'", "there are 10"]),
        (["run", "ssd", "--scenario", "digits/clas=3"], ["'clas'", "did you mean 'class'?"]),
        (["run", "ssd", "--scenario", "digits/indices=0:5000"], ["5000 is outside the training set"]),
        (["run", "ssd", "--scenario", "digits/random=0.0001"], ["the forget set is empty"]),
        (["run", "ssd", "--scenario", "digits/random=1.5"], ["fraction must be > 0 and < 1, got 1.5"]),
        (["run", "ssd", "--scenario", "digits/random=0.9999"], ["whole training set"]),
        (["run", "ssd", "--scenario", "digits/subclass=rocket"], ["have no sub-classes"]),
        (["run", "ssd", "--scenario", "digits/group=alice"], ["no group column"]),
        (["run", "ssd", "--scenario", "digits/noisy"], ["no label noise", "noise=0.1"]),
        (["run", "ssd", "--scenario", "digits/class=3,noise=2"], ["noise must be >= 0 and <= 0.5, got 2.0"]),
        (["run", "ssd", "--scenario", "digits/class=3,class=4"], ["two requests", "join several with +"]),
        (
            ["run", "ssd", "--scenario", "digits/indices=" + ":".join(map(str, range(1000, 1200)))],
            ["outside"],
        ),
        (["run", "ssd", "--seed", "99999999999999999999"], ["--seed", "'99999999999999999999'"]),
        (["run", "ssd", "--minutes", "-1"], ["--minutes", "'-1'"]),
        (["run", "ssd", "--minutes", "nan"], ["--minutes", "'nan'"]),
        (["run", "ssd", "--scenario", "digits/random=0"], ["random: fraction must be > 0 and < 1, got 0.0"]),
        (
            ["run", "ssd", "--subject", "mine.py:build", "--scenario", "mnist/class=3"],
            ["--subject", "--forget"],
        ),
        (["run", "ssd", "none", "--preset", "paper"], ["none has no presets"]),
        (["run", "ssd", "--alpha", "-1"], ["alpha must be > 0, got -1.0"]),
        (["run", "ssd", "--alpha", "big"], ["--alpha", "'big'"]),
        (["run", "ssd", "--importance", "weekly"], ["weekly", "example", "batch"]),
        (["run", "ssd", "--alpa", "3"], ["--alpa"]),
        (["run", "ssd", "--preset", "papr"], ["no preset of ssd called 'papr'", "did you mean 'paper'?"]),
        (["run", "ssd", "--suite", "full"], ["no suite called 'full'"]),
        (["run", "ssd", "--device", "tpu"], ["no device 'tpu' here", "cpu"]),
        (["run", "ssd", "--plugin", "absent.py"], ["no Python file at"]),
        (["run", "ssd", "--forget", "absent.txt"], ["cannot read the request 'absent.txt'"]),
        (["run"], ["Missing argument"]),
        (["report", "zzzz"], ["no report with an address that begins with 'zzzz'"]),
        (["report"], ["name a report"]),
        (["show", "nothing"], ["no method called 'nothing'"]),
        (["fly"], ["No such command"]),
    ],
    ids=lambda v: (
        " ".join(v) if isinstance(v, list) and v and v[0] in ("run", "report", "show", "fly") else ""
    ),
)
def test_bad_input_is_one_line_and_exit_code_2(unlearn, argv, words):
    refused(unlearn(*argv), *words)


def test_a_file_that_is_no_report_is_refused(unlearn, tmp_path):
    path = tmp_path / "report.json"
    path.write_text("{}")
    refused(unlearn("report", path), "is no report of schema")
    path.write_text("{")
    refused(unlearn("replay", path), "cannot read a report")


def test_an_empty_file_of_indices_is_refused(unlearn, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("")
    refused(unlearn("run", "ssd", "--forget", path), "the forget set is empty")
    path.write_text("1\ntwo\n")
    refused(unlearn("run", "ssd", "--forget", path), "'two' is no position")


def test_a_binary_file_of_indices_is_refused(unlearn, tmp_path):
    path = tmp_path / "ids.bin"
    path.write_bytes(bytes(range(128, 256)))
    refused(unlearn("run", "ssd", "--forget", path), "as text")


def test_purging_a_store_that_is_not_there_is_refused(unlearn, tmp_path):
    refused(unlearn("store", "purge", "digits/class=3", at=tmp_path / "absent"), "nothing was purged")


def test_purge_reaches_pictures_sequences_and_noisy_twins(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "none", *FAST, "--show-forgotten", at=at)[0] == 0
    assert (
        unlearn(
            "run", "none", "--scenario", "digits/class=1,epochs=2,noise=0.1", "--metrics", "accuracy", at=at
        )[0]
        == 0
    )
    assert unlearn("store", "purge", "digits/class=3+class=5", at=at)[0] == 0
    left = json.loads(unlearn("store", "ls", "--json", at=at)[1])
    kinds = [e["kind"] for e in left]
    assert kinds.count("trained") == 0, "all four models saw a 3 or a 5"
    assert not list((at / "pages").glob("*.html"))
    reports = [json.loads(p.read_text()) for p in (at / "report").glob("*/report.json")]
    assert not any(r["recipe"]["show_forgotten"] for r in reports)


def test_a_store_that_cannot_be_written_is_one_line(unlearn, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(unlearn("run", "ssd", *FAST, at=tmp_path / "file" / "store"), "cannot write the store", "--store")


def test_damaged_weights_in_the_store_are_one_line(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "none", *FAST, at=at)[0] == 0
    for path in (at / "trained").glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    refused(unlearn("run", "ssd", *FAST, at=at), "cannot read weights")


def test_ctrl_c_ends_with_130_and_keeps_what_was_finished(tmp_path):
    command = [sys.executable, "-m", "unlearn", "run", "ssd", "--scenario", "digits/class=3,epochs=300"]
    env = {**os.environ, "UNLEARN_STORE": str(tmp_path)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if list(tmp_path.glob(".draft-*")):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: interrupted; what was finished is kept" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob(".draft-*"))
    assert not list((tmp_path / "trained").glob("*"))


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
    good = Path(__file__).parents[1] / "examples" / "my_method.py"
    code, out, _ = unlearn("check", good)
    assert code == 0, out
    assert "checks passed" in out
    bad = tmp_path / "bad.py"
    bad.write_text(good.read_text().replace("run.rng", "None").replace("gentle-ascent", "bad-ascent"))
    code, out, _ = unlearn("check", bad)
    assert code == 1
    assert "FAILED bad-ascent: " in out
    empty = tmp_path / "empty.py"
    empty.write_text("")
    refused(unlearn("check", empty), "registers no plugin")
