"""`unlearn erase`: concepts as words, the method's options, refusals before anything is loaded, and a real run."""

import json
import subprocess
import sys

import pytest
from terminal import refused

from unlearn.report import Report
from unlearn.report.summary import groups
from unlearn.report.verdict import judge

pytestmark = pytest.mark.xdist_group("erase")  # one store serves the file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["thre"], ["no concept called 'thre'", "did you mean 'three'?", "red ink"]),
        (["three", "chlak"], ["no concept called 'chlak'", "did you mean 'chalk'?"]),
        (["three", "--scenario", "digits"], ["'digits' draws nothing", "ink"]),
        (["three", "--scenario", "ink/concept=four"], ["holds a request", "unlearn erase three"]),
        (["three", "--scenario", "ink/drawing=1"], ["'drawing'", "did you mean 'drawings'?"]),
        (["three", "--method", "esdd"], ["no method called 'esdd'", "did you mean 'esd'?"]),
        (["three", "--method", "ssd", "--alpha", "-1"], ["ssd: alpha must be > 0, got -1.0"]),
        (["three", "--method=ssd", "--alpha", "-1"], ["ssd: alpha must be > 0, got -1.0"]),
        (["three", "--lr", "-1"], ["esd: lr must be > 0, got -1.0"]),
        (["three", "--alpha", "1"], ["No such option: --alpha"]),
        (["three", "--metrics", "erasur"], ["no metric called 'erasur'", "did you mean 'erasure'?"]),
        ([], ["Missing argument", "unlearn erase --help"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(unlearn, tmp_path, words, said):
    refused(unlearn("erase", *words, at=tmp_path), *said)
    assert not list(tmp_path.iterdir()), "nothing was made before"


def test_help_offers_the_options_of_the_method(unlearn):
    code, out, _ = unlearn("erase", "--help")
    assert code == 0
    assert "Hyper-parameters of esd" in out
    assert "--eta" in out
    other = unlearn("erase", "three", "--method", "ssd", "--help")[1]
    assert "Hyper-parameters of ssd" in other
    assert "--eta" not in other


def test_two_concepts_are_erased_one_after_the_other(tmp_path):
    page = tmp_path / "page.html"
    words = [
        "three",
        "red ink",
        "--method",
        "none",
        "--scenario",
        "ink/drawings=1,steps=2",
        "--html",
        str(page),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "unlearn", "erase", *words, "--store", str(tmp_path / "store"), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports = [Report.model_validate(r) for r in json.loads(done.stdout)]
    assert [r.request["text"] for r in reports] == ["concept=three", "concept=red ink"]
    assert [r.figures["drawings"]["concept"] for r in reports] == ["three", "red ink"]
    names = {s.metric for r in reports for s in r.scores}
    assert {"erasure", "memory", "run-time"} <= names <= {"erasure", "memory", "run-time", "read"}
    assert {s.name for s in reports[0].scores if s.metric == "erasure"} == {
        "erasure/ua", "erasure/in-domain", "erasure/cross-domain", "erasure/nothing",
    }  # fmt: skip
    drawn = reports[0].figures["drawings"]["images"]
    assert drawn["original"] == drawn["unlearned"], "nothing changed, and the noise is the same"
    assert len(set(drawn["original"])) == len(drawn["original"])
    assert page.read_text().count("The same prompts from the same noise") == 2


def test_one_edit_is_reported_for_each_concept(unlearn, tmp_path):
    words = [
        "three",
        "seven",
        "--together",
        "--method",
        "uce",
        "--scenario",
        "ink/drawings=1,steps=2",
        "--json",
    ]
    code, out, err = unlearn("erase", *words, at=tmp_path / "store")
    assert code == 0, err
    one, two = (Report.model_validate(r) for r in json.loads(out))
    assert [r.figures["drawings"]["concept"] for r in (one, two)] == ["three", "seven"]
    assert (
        one.weights["unlearned"]
        == two.weights["unlearned"]
        != one.weights["original"]
        == two.weights["original"]
    )
    assert one.costs.read == two.costs.read and one.score("erasure/ua").reference is None
    assert not any("seven" in c for c in one.figures["drawings"]["captions"])
    assert len(list((tmp_path / "store" / "unlearned").iterdir())) == 1, "unlearned once"


RUIN = '''
import torch

from unlearn.method import Method
from unlearn.registry import methods
from unlearn.subject import Draws


@methods.register("ruin")
class Ruin(Method[Draws]):
    """Leaves nothing but noise in the weights."""

    uses = frozenset({"concept"})

    def unlearn(self, subject: Draws, data, run):
        with torch.no_grad():
            for p in subject.module.get_submodule("unet").parameters():
                p.normal_(generator=run.rng)
        return subject
'''


def test_a_model_that_draws_noise_erased_nothing(unlearn, tmp_path):
    plugin = tmp_path / "ruin.py"
    plugin.write_text(RUIN)
    words = ["--plugin", plugin, "--method", "ruin", "--scenario", "ink/drawings=1", "--json"]
    code, out, err = unlearn("erase", "three", *words, at=tmp_path / "store")
    assert code == 0, err
    (one,) = [Report.model_validate(r) for r in json.loads(out)]
    shares = {s.name.partition("/")[2]: s.value for s in one.scores if s.metric == "erasure"}
    assert shares["in-domain"] < 0.3 and shares["cross-domain"] < 0.5
    said = judge(groups([one])[0])
    assert (said.kind, said.words) == ("destroyed", "Destroyed")
