"""`unlearn attack`, `unlearn attacks`, `erase --attack` and `unlearn evaluate`, on the smallest budgets."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from pipelines import build
from terminal import refused
from test_seeing import saved as save_judge

import unlearn
from unlearn import api, cli
from unlearn.attacks.inversion import Inversion
from unlearn.errors import BadValue, Mismatch, UnknownName
from unlearn.evals.accuracy import Accuracy
from unlearn.ops import hub
from unlearn.ops.stats import wilson
from unlearn.report import Report
from unlearn.scenario import Seeds

pytestmark = pytest.mark.xdist_group("attacks")  # one store serves the file
INK = Path(unlearn.__file__).parent / "assets" / "ink" / "pipeline"
SMALL = ["--scenario", "ink/drawings=1,steps=2"]
TRY = ["--attack", "quantise/bits=3"]
OTHER = ["--attack", "lora-relearn/iterations=1,images=2,batch_size=2", "--attack", "paraphrase/tries=1"]
PLUGIN = '''"""A plugin."""
from unlearn.attack import Attack
from unlearn.knobs import knob
from unlearn.registry import attacks


@attacks.register("asks-again")
class AsksAgain(Attack):
    """Asks for the same again.

    References:
        None; made for a test.
    """

    tries: int = knob(1, "times", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return f"{self.tries} times"

    def attempts(self, case):
        """See `Attack.attempts`."""
        for _ in range(self.tries):
            if len(case.open):
                yield case.open, case.asked(case.ids[case.open])
'''


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    return tmp_path_factory.mktemp("attacks")


def reports(result):
    code, out, err = result
    assert code == 0, err
    return [Report.model_validate(r) for r in json.loads(out)]


def names(report):
    return [s.name for s in report.scores]


@pytest.fixture
def erased(unlearn, at):
    """A report of an erasure with an attack, and the folder that it wrote; from the store after the first time."""
    out = at / "edited"
    more = [] if out.exists() else ["--out", str(out)]
    words = ["erase", "three", "--iterations", "1", *SMALL, *TRY, *more, "--json"]
    [found] = reports(unlearn(*words, at=at / "store"))
    return found, out


def test_attacks_are_further_metrics_of_an_erasure(erased):
    found, _ = erased
    assert [n for n in names(found) if n.startswith("attack")] == [
        "attack/quantise/pre",
        "attack/quantise/post",
    ]
    assert ["quantise", {"bits": 3}] in found.recipe["metrics"]
    post = found.score("attack/quantise/post")
    assert post.n == 5 and post.note.startswith("budget: weights of 3 bits; share after each drawing: ")


def test_a_run_with_attacks_is_replayed(unlearn, erased, at, tmp_path):
    path = tmp_path / "report.json"
    erased[0].save(path)
    code, out, err = unlearn("replay", path, "--json", at=at / "store")
    assert code == 0, err
    assert json.loads(out)[0]["identical"]


def test_the_model_of_a_report_is_attacked_later_without_unlearning_again(unlearn, erased, at, tmp_path):
    before, page = erased[0], tmp_path / "page.html"
    kept = list((at / "store" / "unlearned").iterdir())
    [found] = reports(unlearn("attack", before.id[:16], *OTHER, "--html", page, "--json", at=at / "store"))
    assert found.weights == before.weights
    assert found.recipe["method"] == before.recipe["method"]
    assert {s.metric for s in found.scores} == {"erasure", "lora-relearn", "paraphrase"}
    assert found.score("erasure/ua").value == before.score("erasure/ua").value
    assert "attack/paraphrase/post" in page.read_text()
    assert list((at / "store" / "unlearned").iterdir()) == kept


def test_a_table_and_a_page_are_what_one_sees(unlearn, erased, at):
    code, out, err = unlearn("attack", erased[0].id[:16], *TRY, at=at / "store")
    assert code == 0, err
    for word in (
        "attack/quantise/post",
        "Prompts that show the concept without and with an attack",
        "Report: ",
    ):
        assert word in " ".join(out.split())


def test_the_printed_command_attacks_again(unlearn, erased, at):
    from unlearn.report.reproduce import command

    printed = shlex.split(command(erased[0]))
    [again] = reports(unlearn(*printed[1:], "--json", at=at / "store"))
    assert again.recipe == erased[0].recipe and again.scores == erased[0].scores


def test_a_report_whose_weights_cannot_be_made_again_is_refused(unlearn, erased, at, tmp_path):
    path = tmp_path / "report.json"
    other = {**erased[0].weights, "unlearned": "0" * 64}
    erased[0].model_copy(update={"weights": other}).save(path)
    refused(
        unlearn("attack", path, *TRY, at=at / "store"), "are not in the store", "the folder of its weights"
    )


def test_a_folder_is_attacked_as_the_report_that_wrote_it(unlearn, erased, at):
    before, folder = erased
    [found] = reports(
        unlearn("attack", folder, *TRY, "--concept", "three", *SMALL, "--json", at=at / "store")
    )
    assert found.recipe["method"]["name"] == "given"
    assert found.recipe["method"]["values"]["weights"] == str(folder.resolve())
    assert found.costs.read == {}
    for name in ("erasure/ua", "attack/quantise/pre", "attack/quantise/post"):
        assert found.score(name).value == pytest.approx(before.score(name).value, abs=0.21), (
            "stored in half precision"
        )
        assert found.score(name).reference == before.score(name).reference


def test_anybodys_pipeline_is_attacked_with_a_judge(unlearn, tmp_path):
    hub.quiet()
    build("sd1").save_pretrained(tmp_path / "before")
    after = build("sd1")
    with torch.no_grad():
        for p in after.unet.parameters():
            p.mul_(1.01)
    after.save_pretrained(tmp_path / "after")
    save_judge(tmp_path / "judge")
    words = ["attack", tmp_path / "after", "--attack", "paraphrase/tries=2", "--concept", "cat"]
    words += [
        "--model",
        tmp_path / "before",
        "--scenario",
        "pipeline/steps=2,size=16,drawings=1",
        "--preserve",
        "dog",
    ]
    refused(unlearn(*words, at=tmp_path / "store"), "needs a judge", "--judge")
    words += ["--judge", tmp_path / "judge", "--json"]
    [found] = reports(unlearn(*words, at=tmp_path / "store"))
    assert "attack/paraphrase/post" in names(found)
    assert found.weights["original"] != found.weights["unlearned"]
    learnt = [w if w != "paraphrase/tries=2" else "inversion/iterations=1,images=8" for w in words]
    refused(unlearn(*learnt, at=tmp_path / "store"), "needs images that show the concept", "in no drawing")
    save_judge(tmp_path / "judge", ("Monet", "dog", "nothing", "cat"))  # sees a cat in everything
    [found] = reports(unlearn(*learnt, at=tmp_path / "store"))
    assert found.score("attack/inversion/post").value == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attack", "TARGET"], ["Missing option", "--attack"]),
        (["attack", "TARGET", "--attack", "invrsion"], ["no attack called 'invrsion'", "did you mean 'inversion'?"]),
        (["attack", "TARGET", "--attack", "inversion/lrr=1"], ["no option of inversion called 'lrr'", "'lr'"]),
        (["attack", "TARGET", "--attack", "inversion/lr=fast"], ["inversion: lr must be float, got 'fast'"]),
        (["attack", "TARGET", "--attack", "inversion/lr=0"], ["inversion: lr must be > 0, got 0.0"]),
        (["attack", "TARGET", *TRY, "--attack", "quantise"], ["attack quantise is given twice"]),
        (["attack", "zzzz", *TRY], ["no report with an address that begins with 'zzzz'"]),
        (["attack", "zzzz", *TRY, "--concept", "three"], ["a report knows", "leave out --concept"]),
        (["attack", "EMPTY", *TRY, "--concept", "three"], ["no pipeline in", "model_index.json"]),
        (["attack", "FOLDER", *TRY], ["nothing says what was erased", "--concept"]),
        (["attack", "FOLDER", *TRY, "--concept", "tree"], ["no concept called 'tree'", "did you mean 'three'?"]),
        (["attack", "FOLDER", *TRY, "--concept", "Van Gogh"], ["no concept called 'Van Gogh'", "--model", "--judge"]),
        (["attack", "FOLDER", *TRY, "--concept", "three", "--scenario", "digits"], ["'digits' draws nothing"]),
        (["erase", "three", "--attack", "quantize"], ["no attack called 'quantize'", "did you mean 'quantise'?"]),
        (["erase", "three", *SMALL, "--metrics", "quantise"], ["no metric called 'quantise'"]),
        (["evaluate", "FOLDER", "--prompts", "absent.csv", "--judge", "ink"], ["cannot read prompts from absent.csv"]),
        (["evaluate", "FOLDER", "--prompts", "NOTHING", "--judge", "ink"], ["holds no prompt"]),
        (["evaluate", "FOLDER", "--prompts", "COLUMNS", "--judge", "ink"], ["no column 'prompt', but 'text'", "known are"]),
        (["evaluate", "EMPTY", "--prompts", "FILE", "--judge", "ink"], ["no text-to-image pipeline at"]),
        (["evaluate", "FOLDER", "--prompts", "FILE", "--judge", "EMPTY"], ["no image classifier at"]),
        (["evaluate", "FOLDER", "--prompts", "FILE", "--judge", "ink", "--concept", "x"], ["no concept called 'x'"]),
        (["evaluate", "FOLDER", "--prompts", "FILE", "--judge", "ink", "--images", "FULL"], ["is there already", "--images"]),
        (["evaluate", "FOLDER", "--prompts", "FILE"], ["Missing option", "--judge"]),
    ],
    ids=lambda v: " ".join(v[:5]) if isinstance(v, list) and v[0] in ("attack", "erase", "evaluate") else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(unlearn, tmp_path, words, said):
    files = {"FILE": "prompt\na three\n", "NOTHING": "", "COLUMNS": "text\na\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for folder in ("EMPTY", "FULL"):
        (tmp_path / folder).mkdir()
    (tmp_path / "FULL" / "x").touch()
    places = {n: str(tmp_path / n) for n in (*files, "EMPTY", "FULL")} | {
        "FOLDER": str(INK),
        "TARGET": "zzzz",
    }
    refused(unlearn(*(places.get(w, w) for w in words), at=tmp_path / "store"), *said)
    assert not (tmp_path / "store").exists(), "nothing was made before"


def test_a_folder_that_was_made_from_another_pipeline_is_refused(unlearn, tmp_path):
    hub.quiet()
    build("sd1").save_pretrained(tmp_path / "other")
    result = unlearn("attack", tmp_path / "other", *TRY, "--concept", "three", at=tmp_path)
    refused(result, "was not made from the original", "--model")


def test_a_model_that_reads_no_prompts_is_refused_before_anything_is_trained(tmp_path):
    on = api.bench(tmp_path / "store", "cpu")
    with pytest.raises(Mismatch, match="inversion measures what Prompted; Classifier does not offer it"):
        api.sweep(on, [api.build_method("none")], api.as_scenario("digits"), [Seeds()], [Inversion()])
    assert not (tmp_path / "store").exists()


def test_attacks_are_listed_and_explained(unlearn):
    code, out, _ = unlearn("attacks")
    assert code == 0
    assert "inversion" in out
    listed = json.loads(unlearn("attacks", "--json")[1])
    assert [a["name"] for a in listed] == api.registry.attacks.names()
    assert all(a["summary"] and a["reference"] for a in listed)
    shown = unlearn("show", "inversion")[1]
    for word in ("arXiv:2308.01508", "Budget: ", "inversion/images=25", "iterations=", ">= 1"):
        assert word in shown
    assert "--iterations" not in shown
    assert json.loads(unlearn("show", "inversion", "--json")[1])["kind"] == "attack"
    assert cli._listing(["attacks"]), "a plain table does not wait for the parser"


def test_somebodys_attack_is_checked_and_used(unlearn, tmp_path, at, erased):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    code, out, err = unlearn("check", path)
    assert code == 0, out + err
    assert "asks-again" in unlearn("attacks", "--plugin", path)[1]
    words = ["attack", erased[0].id[:16], "--attack", "asks-again/tries=2", "--plugin", path, "--json"]
    [found] = reports(unlearn(*words, at=at / "store"))
    assert found.score("attack/asks-again/post").value == found.score("attack/asks-again/pre").value


def test_attacks_are_built_from_text_and_from_a_recipe():
    built = api.build_attack("inversion/iterations=5,lr=0.5")
    assert built == Inversion(iterations=5, lr=0.5)
    assert api.metric_from(["inversion", built.to_dict()]) == built
    assert isinstance(api.metric_from(["accuracy", {}]), Accuracy)
    assert api.build_attacks(["inversion", "inversion"]) == [Inversion()]
    with pytest.raises(BadValue, match="given twice"):
        api.build_attacks(["inversion", "inversion/lr=0.5"])
    with pytest.raises(UnknownName, match="no metric called"):
        api.metric_from(["inversionn", {}])


FAST = ["--steps", "2", "--guidance", "2"]


def evaluated(unlearn, *words):
    code, out, err = unlearn("evaluate", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_listed_prompts_are_drawn_and_judged(unlearn, tmp_path):
    path, images = tmp_path / "p.csv", tmp_path / "images"
    path.write_text(
        "prompt,evaluation_seed,guidance,classes\na three in chalk,1,,three\na three in neon,,3,\n"
    )
    found = evaluated(unlearn, INK, "--prompts", path, "--judge", "ink", "--concept", "three", "--images", images,
                      "--seed", "10", "--steps", "8", "--guidance", "2")  # fmt: skip
    lines = found["drawings"]
    assert [(d["prompt"], d["seed"], d["guidance"]) for d in lines] == [
        ("a three in chalk", 1, None),
        ("a three in neon", 11, 3.0),
    ]
    assert [d["seen"] for d in lines] == [
        {"object": "three", "style": "chalk"},
        {"object": "three", "style": "neon"},
    ]
    assert found["shares"]["style"]["neon"]["share"] == 0.5
    low, high = wilson(0, 2)
    assert found["ua"] == {"share": 0.0, "low": low, "high": high, "hits": 0, "n": 2}
    assert found["labelled"]["hits"] == found["labelled"]["n"] == 1
    assert sorted(p.name for p in images.iterdir()) == ["00000.png", "00001.png"]
    assert (images / "00000.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = unlearn("evaluate", INK, "--prompts", path, "--judge", "ink", "--concept", "three", *FAST)
    assert code == 0
    assert "show another concept than three (UA)" in out


def test_a_prompt_is_drawn_the_same_wherever_it_stands_in_the_file(unlearn, tmp_path):
    path, folders = tmp_path / "p.csv", [tmp_path / "one", tmp_path / "two"]
    for folder, lines in zip(
        folders, (["a six,5", "an eight,6"], ["an eight,6", "a six,5", "a six,7"]), strict=True
    ):
        path.write_text("\n".join(["prompt,sd_seed", *lines]))
        evaluated(unlearn, INK, "--prompts", path, "--judge", "ink", "--images", folder, *FAST)
    first, second = ([p.read_bytes() for p in sorted(f.iterdir())] for f in folders)
    assert first[0] == second[1]
    assert first[1] == second[0]
    assert second[1] != second[2], "another seed draws something else"


@pytest.mark.parametrize("layout", ["sd1", "flux-schnell"])
def test_any_layout_and_a_classifier_as_judge(unlearn, tmp_path, layout):
    hub.quiet()
    build(layout).save_pretrained(tmp_path / "model")
    save_judge(tmp_path / "judge")
    path = tmp_path / "p.csv"
    path.write_text("prompt,case_number\na cat,7\na dog,8\nmonet,9\n")
    found = evaluated(unlearn, tmp_path / "model", "--prompts", path, "--judge", tmp_path / "judge", "--steps", "2",
                      "--size", "16", "--concept", "CAT")  # fmt: skip
    assert [d["case"] for d in found["drawings"]] == ["7", "8", "9"]
    shares = found["shares"]["label"]
    assert set(shares) == {"cat", "Dog", "Monet", "nothing"}
    assert sum(s["hits"] for s in shares.values()) == 3
    assert found["ua"]["hits"] == 3 - shares["cat"]["hits"] - shares["nothing"]["hits"]
    assert found["labelled"] is None
