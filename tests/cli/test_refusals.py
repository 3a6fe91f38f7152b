"""Bad input: one line that says what to do, exit code 2, no traceback."""

import pytest
from terminal import refused

pytestmark = pytest.mark.xdist_group("cli")  # one store serves the folder


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "sallun"], ["no method called 'sallun'", "did you mean 'salun'?"]),
        (["run", "ssd", "--metrics", "acuracy"], ["no metric called 'acuracy'", "did you mean 'accuracy'?"]),
        (["run", "ssd", "--scenario", "digit"], ["no scenario called 'digit'", "did you mean 'digits'?"]),
        (["run", "ssd", "--scenario", "digits/class=11"], ["no class called '11'", "there are 10"]),
        (["run", "ssd", "--scenario", "digits/clas=3"], ["'clas'", "did you mean 'class'?"]),
        (["run", "ssd", "--scenario", "digits/indices=0:5000"], ["5000 is outside the training set"]),
        (
            ["run", "sisa", "--scenario", "digits/indices=0:5000,deletable=sisa:5x4"],
            ["5000 is outside the training set, which has positions 0 to 897"],
        ),
        (
            ["run", "s3t", "--scenario", "digits/random=0.01,deletable=s3t:5x4:0.2:0.2:0.2:0.2:0.2"],
            ["gives chances of 5 slices, and a shard has 4, numbered 0 to 3; give one for each"],
        ),
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
        (["run", "ssd", "--suite", "nightly"], ["no suite called 'nightly'", "basic, fast, standard, full"]),
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
