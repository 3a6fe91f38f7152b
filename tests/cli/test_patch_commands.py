"""The commands on patches: tables, JSON, and one line for what cannot be done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from terminal import refused

from unlearn.ops.checkpoints import open_checkpoint
from unlearn.patch import Patch, load_tensors

INK = Path(__file__).parents[2] / "unlearn" / "assets" / "ink" / "pipeline"
KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
VALUE = KEY.replace("to_k", "to_v")
CONV = "unet.conv_in.weight"


def patch_of(edits, kind="tensors"):
    known = open_checkpoint(INK)
    old = {n: known[n].float() for n in edits} if kind == "tensors" else {}
    tensors = {n: t + edits[n] for n, t in old.items()} or edits
    return Patch(kind, known.bases(["unet"]), tensors, {"method": "uce", "concept": "three"})


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Files of patches of the shipped pipeline, by what they are."""
    folder = tmp_path_factory.mktemp("patches")
    rng = torch.Generator().manual_seed(0)
    thin = 0.2 * torch.randn(72, 1, generator=rng) @ torch.randn(1, 64, generator=rng)
    known = {
        "key": patch_of({KEY: thin}),
        "other": patch_of({KEY: 2 * thin}),
        "value": patch_of({VALUE: torch.randn(72, 64, generator=rng)}),
        "conv": patch_of({CONV: 0.5}),
    }
    module = KEY.removesuffix(".weight")
    known["lora"] = patch_of(
        {f"{module}.lora_A.weight": torch.ones(1, 64), f"{module}.lora_B.weight": torch.ones(72, 1)}, "lora"
    )
    for name, patch in known.items():
        patch.save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in known}


def test_inspect_says_what_a_patch_changes(unlearn, patches):
    code, out, _ = unlearn("patch", "inspect", patches["value"])
    assert code == 0
    for word in ("unet.mid_block.attentions … transformer_blocks.*.attn2.to_v.weight", "4,608", "0.32%", "float32",
                 "unet: 4,608 of 1,422,956 weights", "concept: three", "kind tensors, format 1"):  # fmt: skip
        assert word in out
    found = json.loads(unlearn("patch", "inspect", patches["lora"], "--json")[1])
    assert found["kind"] == "lora"
    assert found["notes"] == {"concept": "three", "method": "uce"}
    assert found["bytes"] == patches["lora"].stat().st_size
    assert found["tensors"] == {
        KEY: {"component": "unet", "shape": [72, 64], "weights": 4608, "type": "float32", "rank": 1}
    }
    base = open_checkpoint(INK).bases(["unet"])["unet"]
    assert found["components"]["unet"] == {
        "base": base.sha256, "tensors": 1, "weights": 4608, "of": 1422956, "share": 4608 / 1422956,
    }  # fmt: skip
    assert "rank 1" in unlearn("patch", "inspect", patches["lora"])[1]


def test_apply_and_revert(unlearn, patches, tmp_path):
    code, out, _ = unlearn("patch", "apply", patches["key"], INK, "--out", tmp_path / "new")
    assert code == 0
    for word in (
        "1 tensors are not the base's",
        "1 of them were rounded to half precision, by",
        "new.undo.safetensors",
    ):
        assert word in out
    code, out, _ = unlearn(
        "patch", "revert", patches["key"], tmp_path / "new", "--out", tmp_path / "b", "--json"
    )
    assert code == 0
    assert json.loads(out) == {
        "out": str(tmp_path / "b"), "tensors": 0, "rounded": 0, "error": 0.0, "left_out": [], "undo": None,
    }  # fmt: skip
    for path in INK.rglob("*.*"):
        assert (tmp_path / "b" / path.relative_to(INK)).read_bytes() == path.read_bytes()


def test_apply_without_undo_and_revert_with_the_base(unlearn, patches, tmp_path):
    words = ["patch", "apply", patches["key"], INK, "--out", tmp_path / "new", "--no-undo", "--json"]
    assert json.loads(unlearn(*words)[1])["undo"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    words = ["patch", "revert", patches["key"], tmp_path / "new", "--out", tmp_path / "b"]
    refused(unlearn(*words), "does not hold what it replaced", "--base")
    assert unlearn(*words, "--base", INK)[0] == 0


def test_stack_joins_and_adds(unlearn, patches, tmp_path):
    made = tmp_path / "stack.safetensors"
    code, out, _ = unlearn("patch", "stack", patches["key"], patches["conv"], "--out", made)
    assert (code, out.splitlines()[0]) == (0, f"2 patches are one: {made}")
    assert load_tensors(made).keys() == {KEY, CONV}
    both = [patches["key"], patches["other"]]
    refused(unlearn("patch", "stack", *both, "--out", tmp_path / "s.safetensors"), KEY, "--add --base MODEL")
    refused(
        unlearn("patch", "stack", *both, "--out", tmp_path / "s.safetensors", "--add"), "--add and --base"
    )
    assert (
        unlearn("patch", "stack", *both, "--out", tmp_path / "s.safetensors", "--add", "--base", INK)[0] == 0
    )
    old = open_checkpoint(INK)[KEY].double()
    one, two = (load_tensors(p)[KEY].double() for p in both)
    assert torch.equal(load_tensors(tmp_path / "s.safetensors")[KEY], (one + two - old).float())


def test_export_as_folder_and_as_lora(unlearn, patches, tmp_path):
    assert unlearn("patch", "export", patches["key"], INK, "--out", tmp_path / "m", "--as", "folder")[0] == 0
    assert open_checkpoint(tmp_path / "m")[KEY].equal(load_tensors(patches["key"])[KEY].half())
    code, out, _ = unlearn("patch", "export", patches["key"], INK, "--out", tmp_path / "l", "--as", "lora")
    assert code == 0
    assert out.startswith("a LoRA for pipe.load_lora_weights")
    held = load_file(tmp_path / "l" / "pytorch_lora_weights.safetensors")
    assert {n: tuple(t.shape) for n, t in held.items()} == {
        KEY.replace("weight", "lora_A.weight"): (1, 64), KEY.replace("weight", "lora_B.weight"): (72, 1),
    }  # fmt: skip
    refused(
        unlearn("patch", "export", patches["value"], INK, "--out", tmp_path / "x", "--as", "lora", "--rank", "8"),
        "needs rank 64 of 64", "rank 8 misses", "--as folder", "--rank 64",
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l", "m"]


def absent(folder, patches):
    return folder / "absent.safetensors", INK


def weights_only(folder, patches):
    save_file({"a": torch.ones(1)}, folder / "w.safetensors")
    return folder / "w.safetensors", INK


def junk(folder, patches):
    (folder / "junk.safetensors").write_bytes(b"\x80\x02not a patch")
    return folder / "junk.safetensors", INK


def of_the_future(folder, patches):
    save_file({"a": torch.ones(1)}, folder / "f.safetensors", {"unlearn_patch": "2"})
    return folder / "f.safetensors", INK


def another_base(folder, patches):
    from unlearn import patching
    from unlearn.patch import read_patch

    patching.write_folder(read_patch(patches["conv"]), INK, folder / "model")
    return patches["key"], folder / "model"


def pickled(folder, patches):
    shutil.copytree(INK, folder / "model")
    name = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    name.rename(name.with_suffix(".bin"))
    return patches["key"], folder / "model"


def another_shape(folder, patches):
    good = patch_of({KEY: 0.5})
    Patch("tensors", good.base, {KEY: torch.ones(2, 2)}, {}).save(folder / "p.safetensors")
    return folder / "p.safetensors", INK


def no_model(folder, patches):
    return patches["key"], folder / "nowhere"


def taken(folder, patches):
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")
    return patches["key"], INK


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (absent, ["no patch at"]),
        (weights_only, ["is no patch"]),
        (junk, ["cannot read weights from"]),
        (of_the_future, ["format 2", "reads format 1"]),
        (
            another_base,
            ["belongs to another base: its unet is", "give the model that the patch was made from"],
        ),
        (pickled, ["has only pickled weights", "safe_serialization=True"]),
        (another_shape, [KEY, "(72, 64) in the model and (2, 2) in the patch"]),
        (no_model, ["no model at"]),
        (taken, ["is there already", "--out"]),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(unlearn, patches, tmp_path, make, words):
    patch, model = make(tmp_path, patches)
    before = sorted(tmp_path.rglob("*"))
    refused(unlearn("patch", "apply", patch, model, "--out", tmp_path / "out"), *words)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["patch", "fly"], "No such command"),
        (["patch", "apply", "p.safetensors"], "Missing argument"),
        (["patch", "export", "p", "m", "--out", "o"], "--as"),
        (["patch", "export", "p", "m", "--out", "o", "--as", "onnx"], "'onnx'"),
        (["patch", "export", "p", "m", "--out", "o", "--as", "lora", "--rank", "0"], "--rank"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_words_are_refused(unlearn, words, said):
    refused(unlearn(*words), said)


def test_help_of_the_group_imports_nothing_heavy():
    code = """
import sys
sys.argv = ["unlearn", "patch", "--help"]
from unlearn.cli import main
try:
    main()
except SystemExit:
    print([m for m in ("torch", "diffusers", "safetensors", "numpy") if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for word in ("inspect", "apply", "revert", "stack", "export"):
        assert word in done.stdout
