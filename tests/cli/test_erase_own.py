"""`unlearn erase --model`: your own pipeline, with a judge and without, and what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest
import torch
from pipelines import build
from terminal import refused
from test_seeing import saved as save_judge

from unlearn.data import Batch
from unlearn.ops import hub
from unlearn.ops.seeing import load_judge
from unlearn.patch import read_patch
from unlearn.report import Report
from unlearn.scenario import parse
from unlearn.scenarios._diffusion import load_pipeline

pytestmark = pytest.mark.xdist_group("erase-own")  # one pipeline serves the file
FAST = [
    "--scenario",
    "pipeline/steps=2,size=16,drawings=2",
    "--iterations",
    "2",
    "--batch-size",
    "2",
    "--pool",
    "4",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    hub.quiet()
    path = tmp_path_factory.mktemp("own") / "model"
    build("sd1").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    save_judge(path)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cat", "--model", "./nowhere"], ["no text-to-image pipeline at './nowhere'", "there is no such folder"]),
        (["", "--model", "MODEL"], ["an empty prompt names no concept"]),
        (["cat", " ", "--model", "MODEL"], ["an empty prompt names no concept"]),
        (["cat", "--model", "MODEL", "--preserve", "cat"], ["'cat' is to be erased and preserved"]),
        (["cat", "--model", "MODEL", "--anchor", "Cat"], ["'cat' and its anchor 'Cat' are the same tokens", "choose another anchor"]),
        (["\N{SNOWMAN}", "--model", "MODEL"], ["the tokenizer makes nothing of '\N{SNOWMAN}'", "choose another name"]),
        (["cat", "--model", "MODEL", "--scenario", "digits"], ["--model goes with --scenario pipeline", "got digits"]),
        (["cat", "--model", "MODEL", "--scenario", "ink/drawings=1"], ["--model goes with --scenario pipeline"]),
        (["cat", "--model", "MODEL", "--scenario", "pipeline/concept=dog"], ["holds a request"]),
        (["cat", "--model", "MODEL", "--scenario", "pipeline/templates=picture"], ["must hold {} in place", "'picture'"]),
        (["cat", "--model", "MODEL", "--scenario", "pipeline/size=19"], ["multiples of 2", "got 19"]),
        (["cat", "--model", "MODEL", "--scenario", "pipeline/step=2"], ["'step'", "did you mean 'steps'?"]),
        (["cat", "--scenario", "pipeline"], ["there is no model", "--model"]),
        (["three", "--preserve", "four"], ["scenario 'ink' has no option preserve"]),
        (["three", "--judge", "x"], ["scenario 'ink' has no option judge"]),
        (["horse", "--model", "MODEL", "--judge", "JUDGE"], ["no label of the judge called 'horse'", "cat, dog, monet"]),
        (["cat", "--model", "MODEL", "--judge", "MODEL"], ["no image classifier at"]),
        (["cat", "--model", "MODEL", "--out", "MODEL"], ["is there already", "--out"]),
        (["cat", "--model", "MODEL", "--method", "sld", "--out", "NEW"], ["sld acts beside the pipeline's own weights", "FILE.safetensors"]),
        (["cat", "--model", "MODEL", "--method", "spm", "--out", "NEW"], ["spm acts beside the pipeline's own weights"]),
        (["cat", "--model", "MODEL", "--method", "ssd"], ["ssd needs forget data, which pipeline does not offer", "or one of", "esd"]),
        (["cat", "--model", "MODEL", "--lr", "-1"], ["esd: lr must be > 0, got -1.0"]),
        (["cat", "--model", "MODEL", "--metrics", "concept-accuracy", *FAST], ["no judge looks at concepts", "--metrics"]),
    ],
    ids=lambda v: " ".join(v[:5]) if isinstance(v, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(unlearn, model, judge, tmp_path, words, said):
    given = [{"MODEL": str(model), "JUDGE": str(judge)}.get(w, w) for w in words]
    refused(unlearn("erase", *given, at=tmp_path), *said)


def reports(result):
    code, out, err = result
    assert code == 0, err
    return [Report.model_validate(r) for r in json.loads(out)]


def test_without_a_judge_there_are_pairs_and_no_verdict(unlearn, model, tmp_path):
    page, out = tmp_path / "page.html", tmp_path / "out"
    words = [
        "cat",
        "--model",
        model,
        "--preserve",
        "dog",
        "--preserve",
        "monet",
        *FAST,
        "--out",
        out,
        "--html",
        page,
    ]
    (one,) = reports(unlearn("erase", *words, "--json", at=tmp_path / "store"))
    erased = [s for s in one.scores if s.metric == "erasure"]
    assert erased and all(s.value is None and s.note == "no judge: cannot tell" for s in erased)
    shown = one.figures["drawings"]
    assert shown["captions"] == ["cat", "cat", "a picture of cat", "a picture of cat", "dog", "monet"]
    assert shown["asks"] == [True] * 4 + [False] * 2 and not shown["seen"]
    assert len(set(shown["images"]["original"])) == 6
    assert all(a != b for a, b in zip(*shown["images"].values(), strict=True)), "something changed"
    assert one.costs.read == {"concept": 2}
    text = page.read_text()
    assert "Cannot tell" in text and "No judge looked at" in text and "seen as" not in text
    code, said, _ = unlearn("erase", *words[: words.index("--out")], at=tmp_path / "store")
    assert code == 0 and "Cannot tell. No judge looked at the drawings" in said
    patch = read_patch(out / "patch.safetensors")
    assert patch.notes["method"]["name"] == "esd" and patch.notes["request"] == "concept=cat"
    assert all(".attn2." in name for name in patch.names)
    again = parse(one.scenario)
    assert again.recipe() == one.recipe["scenario"]


def test_a_judge_decides(unlearn, model, judge, tmp_path):
    out = tmp_path / "out"
    words = ["cat", "--model", model, "--preserve", "dog", "--judge", judge, *FAST, "--out", out, "--json"]
    (one,) = reports(unlearn("erase", *words, at=tmp_path / "store"))
    found, look = load_pipeline(str(out), steps=2, size=16), load_judge(str(judge), ["cat", "dog"])
    ids = found.ids([t for n in ("cat", "dog") for t in (n, n, f"a picture of {n}", f"a picture of {n}")])
    images = found.subject.draw(
        Batch(torch.zeros(8, 0), ids, torch.arange(8)), torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        seen = look(images).argmax(1)
    expected = {
        "ua": ((seen[:4] != 0) & (seen[:4] != 3)).double().mean(),
        "in-domain": (seen[4:] == 1).double().mean(),
        "nothing": (seen == 3).double().mean(),
    }
    scores = {s.name.partition("/")[2]: s.value for s in one.scores if s.metric == "erasure"}
    assert scores == pytest.approx({n: v.item() for n, v in expected.items()})
    assert len(one.figures["drawings"]["seen"]["unlearned"]) == 5


def test_two_concepts_follow_each_other_and_the_folder_has_both(unlearn, model, tmp_path):
    out = tmp_path / "out"
    words = [
        "cat",
        "dog",
        "--model",
        model,
        "--method",
        "uce",
        "--anchor",
        "monet",
        *FAST[:2],
        "--out",
        out,
        "--json",
    ]
    first, second = reports(unlearn("erase", *words, at=tmp_path / "store"))
    assert [r.request["text"] for r in (first, second)] == ["concept=cat", "concept=dog"]
    assert first.recipe["unlearned"] == second.recipe["base"]
    assert first.costs.read == {"concept": 2, "anchor": 2, "preserve": 2}
    drawn = second.figures["drawings"]["images"]
    whole = load_pipeline(str(out), steps=2, size=16)
    ids = whole.ids(["dog", "dog", "a picture of dog", "a picture of dog"])
    images = whole.subject.draw(
        Batch(torch.zeros(4, 0), ids, torch.arange(4)), torch.Generator().manual_seed(0)
    )
    from unlearn.drawings import png

    assert drawn["unlearned"] == [png(image) for image in images]
    assert read_patch(out / "patch.safetensors").notes["request"] == "concept=cat+concept=dog"


def test_the_shipped_pipeline_is_written_as_a_folder_too(unlearn, tmp_path):
    from unlearn.scenarios.ink import ASSETS

    out = tmp_path / "no-three"
    words = [
        "three",
        "--method",
        "uce",
        "--scenario",
        "ink/drawings=1,steps=2",
        "--metrics",
        "memory",
        "--out",
        out,
    ]
    code, _, err = unlearn("erase", *words, at=tmp_path / "store")
    assert code == 0, err
    names = {str(p.relative_to(ASSETS / "pipeline")) for p in (ASSETS / "pipeline").rglob("*") if p.is_file()}
    assert {str(p.relative_to(out)) for p in Path(out).rglob("*") if p.is_file()} == {
        *names,
        "patch.safetensors",
    }
    before, after = (load_pipeline(str(p)).subject.module.state_dict() for p in (ASSETS / "pipeline", out))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == set(read_patch(out / "patch.safetensors").names)
    assert moved and all(".attn2.to_k." in n or ".attn2.to_v." in n for n in moved)
