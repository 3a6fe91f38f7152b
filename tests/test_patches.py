"""Patches: what they hold, and what comes out where they are applied, reverted, stacked and exported."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unlearn import patching
from unlearn.errors import BadValue, BadWeights, StoreError, UnlearnError
from unlearn.ops.adapters import factorised, lora_state
from unlearn.ops.checkpoints import Checkpoint, open_checkpoint
from unlearn.patch import (
    apply_patch,
    base_of,
    changed,
    load_tensors,
    make_lora_patch,
    make_patch,
    read_patch,
    save_patch,
    save_tensors,
)

INK = Path(__file__).parents[1] / "unlearn" / "assets" / "ink" / "pipeline"
UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
CONV = "unet.down_blocks.0.resnets.0.conv1.weight"
WORD = "text_encoder.encoder.layers.0.self_attn.q_proj.weight"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, scale=0.1):
    return scale * torch.randn(*shape, generator=rng(seed))


def low_rank(t, rank, seed=0):
    flat = t.flatten(1).shape
    return (normal(flat[0], rank, seed=seed) @ normal(rank, flat[1], seed=seed + 1, scale=1.0)).view(t.shape)


def edited(base, edits):
    """A copy with something added to each of these weights."""
    done = copy.deepcopy(base)
    state = done.state_dict()
    for name, d in edits.items():
        state[name].add_(d)
    return done


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def load(folder):
    """In single precision: without being told, diffusers takes it and transformers what the folder holds."""
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)


def draw(pipe):
    """Two images of a pipeline (2, 16, 16, 3), between 0 and 1."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        ["a red three", "a seven in chalk"], num_inference_steps=3, guidance_scale=2.0, height=16, width=16,
        output_type="np", generator=rng(),
    ).images  # fmt: skip


def directly(patch, as_stored=False):
    """The shipped pipeline with a patch's values put into its modules by hand, maybe rounded as in its files."""
    pipe = load(INK)
    for name in patch.names:
        component, _, rest = name.partition(".")
        old = getattr(pipe, component).state_dict()[rest]
        new = patch.value(name, old)
        old.copy_(new.half() if as_stored else new)
    return pipe


@pytest.fixture(scope="module")
def pipeline():
    """The trainable components of the shipped pipeline, which is stored in half precision, as a subject has them."""
    pipe = load(INK)
    return nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})


@pytest.fixture(scope="module")
def edit(pipeline):
    """A patch of rank 2 on the keys and values of the cross-attentions."""
    state = pipeline.state_dict()
    names = [n for n in state if ".attn2.to_k." in n or ".attn2.to_v." in n]
    edits = {n: low_rank(state[n], 2, seed=k) for k, n in enumerate(names)}
    return make_patch(pipeline, edited(pipeline, edits), {"method": "uce", "concept": "three"})


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


# ---- what a patch holds


def test_the_hash_of_a_base_is_what_it_is_said_to_be():
    t = torch.tensor([1.5, -2.0])
    one = hashlib.sha256(b"(2,)" + np.array([1.5, -2.0], "<f4").tobytes()).digest()
    assert base_of([t]).sha256 == hashlib.sha256(one).hexdigest()
    assert base_of([t]).weights == 2


def test_a_base_is_known_by_its_values_alone():
    a, b = normal(3, 4).half(), normal(5).half()
    assert base_of([a, b]) == base_of([b, a]) == base_of([a.float(), b.float(), a.float(), torch.arange(9)])
    assert base_of([a]) != base_of([a.view(4, 3)])
    other = a.clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(9.0).half())
    assert base_of([a]) != base_of([other])
    exact = normal(3, 4)
    assert base_of([exact]) != base_of([exact.half()]), "rounding makes another model"


def test_a_patch_holds_the_new_values_and_nothing_old(net, tmp_path):
    done = edited(net, {"3.weight": normal(3, 16), "1.running_mean": normal(4)})
    save_patch(tmp_path / "p.safetensors", net, done, {"method": "ssd"})
    found = load_tensors(tmp_path / "p.safetensors")
    assert set(found) == {"3.weight", "1.running_mean"}
    assert torch.equal(found["3.weight"], done[3].weight)
    read = read_patch(tmp_path / "p.safetensors")
    assert read.base == {"": base_of(net.state_dict().values())}
    assert read.notes == {"method": "ssd"}
    again = copy.deepcopy(net)
    apply_patch(tmp_path / "p.safetensors", again)
    assert not changed(done.state_dict(), again.state_dict())
    with pytest.raises(BadWeights, match="belongs to another base: its model is"):
        apply_patch(tmp_path / "p.safetensors", again)


def test_only_the_components_that_it_changes_are_its_base(pipeline, edit):
    assert set(edit.base) == {"unet"}
    assert edit.base["unet"] == base_of(pipeline["unet"].state_dict().values())
    assert edit.base["unet"].weights == sum(p.numel() for p in pipeline["unet"].parameters())


def test_a_weight_with_two_names_is_held_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    base = Tied()
    done = copy.deepcopy(base)
    with torch.no_grad():
        done.embed.weight.add_(1)
    assert make_patch(base, done).names == ["embed.weight"]


def test_factors_become_their_product(net, tmp_path):
    a, b = normal(2, 1, 3, 3), normal(4, 2, 1, 1, seed=1)
    patch = make_lora_patch(net, {"0": (a, b)})
    patch.save(tmp_path / "p.safetensors")
    again = copy.deepcopy(net)
    apply_patch(tmp_path / "p.safetensors", again)
    product = torch.einsum("or,rihw->oihw", b[..., 0, 0].double(), a.double())
    assert torch.equal(again[0].weight, (net[0].weight.double() + product).float())
    assert set(changed(net.state_dict(), again.state_dict())) == {"0.weight"}


@pytest.mark.parametrize(
    ("notes", "tensors", "words"),
    [
        ({}, {"a.weight": torch.ones(2)}, "is no patch: it holds weights"),
        ({"unlearn_patch": "7"}, {"a": torch.ones(2)}, "is a patch of format 7, this version reads format 1"),
        ({"unlearn_patch": "1"}, {"a": torch.ones(2)}, "damaged"),
        ({"unlearn_patch": "1", "kind": "tensors", "base": "[", "notes": "{}"}, {}, "damaged"),
        ({"unlearn_patch": "1", "kind": "xor", "base": "{}", "notes": "{}"}, {}, "damaged"),
        ({"unlearn_patch": "1", "kind": "lora", "base": '{"": {"sha256": "0", "weights": 1}}', "notes": "{}"},
         {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 1)}, "damaged"),
        ({"unlearn_patch": "1", "kind": "tensors", "base": '{"unet": {"sha256": "0", "weights": 1}}', "notes": "{}"},
         {"vae.weight": torch.ones(2)}, "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_patch_is_refused(tmp_path, notes, tensors, words):
    save_tensors(tmp_path / "p.safetensors", tensors, **notes)
    with pytest.raises(BadWeights, match=words) as err:
        read_patch(tmp_path / "p.safetensors")
    assert "\n" not in str(err.value)
    with pytest.raises(BadWeights, match="no patch at"):
        read_patch(tmp_path / "absent")


# ---- applied to a pipeline


def test_an_applied_patch_changes_the_named_tensors_and_no_other_byte(edit, tmp_path):
    done = patching.apply(edit, INK, tmp_path / "out")
    old, new = files(INK), files(tmp_path / "out")
    assert old.keys() == new.keys()
    assert [n for n in old if old[n] != new[n]] == [UNET]
    before, after = load_file(INK / UNET), load_file(tmp_path / "out" / UNET)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert {f"unet.{n}" for n in moved} == set(edit.names)
    assert all(torch.equal(after[n], edit.tensors[f"unet.{n}"].half()) for n in moved)
    assert done.tensors == len(moved)


def test_a_written_folder_draws_what_the_edit_draws(edit, tmp_path):
    patching.apply(edit, INK, tmp_path / "out")
    images = draw(load(tmp_path / "out"))
    assert np.array_equal(images, draw(directly(edit, as_stored=True))), "bit by bit"
    assert not np.allclose(images, draw(load(INK)), atol=0.05), "the edit is seen"


def test_rounding_to_half_precision_is_stated(pipeline, edit, tmp_path):
    done = patching.apply(edit, INK, tmp_path / "out")
    off = [(t.half().float() - t).abs().max() for t in edit.tensors.values()]
    assert done.rounded == sum(bool(o > 0) for o in off) == len(edit.names)
    assert done.error == float(max(off)) > 0
    kept = edited(pipeline, {KEY: 0})
    kept.state_dict()[KEY].copy_(normal(*kept.state_dict()[KEY].shape).half())
    assert patching.apply(make_patch(pipeline, kept), INK, tmp_path / "kept").rounded == 0
    huge = make_patch(pipeline, edited(pipeline, {KEY: 1e6}))
    with pytest.raises(
        BadWeights, match=r"cannot hold in torch\.float16; apply the patch to the model in single"
    ):
        patching.apply(huge, INK, tmp_path / "huge")
    assert not (tmp_path / "huge").exists()


def test_reverting_gives_every_byte_back(edit, tmp_path):
    patching.apply(edit, INK, tmp_path / "out")
    patching.revert(edit, tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == files(INK)
    (tmp_path / "out.undo.safetensors").unlink()
    with pytest.raises(BadWeights, match="name the base, or an undo, with --base"):
        patching.revert(edit, tmp_path / "out", tmp_path / "again")
    patching.revert(edit, tmp_path / "out", tmp_path / "again", base=INK)
    assert files(tmp_path / "again") == files(INK)


def test_the_undo_is_a_patch_of_the_edited_model(edit, tmp_path):
    done = patching.apply(edit, INK, tmp_path / "out")
    undo = read_patch(done.undo)
    assert done.undo == tmp_path / "out.undo.safetensors"
    assert undo.notes == {"undo": edit.notes}
    patching.apply(undo, tmp_path / "out", tmp_path / "back", undo=False)
    assert files(tmp_path / "back") == files(INK)
    assert not (tmp_path / "back.undo.safetensors").exists()
    with pytest.raises(BadWeights, match="belongs to another base: its unet is"):
        patching.apply(undo, INK, tmp_path / "wrong")


def test_what_does_not_give_the_base_back_is_refused(pipeline, edit, tmp_path):
    both = edited(pipeline, {n: edit.tensors[n] - pipeline.state_dict()[n] for n in edit.names} | {CONV: 0.5})
    patching.apply(make_patch(pipeline, both), INK, tmp_path / "more")
    with pytest.raises(BadWeights, match="without the patch is not the patch's base"):
        patching.revert(edit, tmp_path / "more", tmp_path / "out", base=INK)
    patching.apply(edit, INK, tmp_path / "edited", undo=False)
    with pytest.raises(BadWeights, match="without the patch is not the patch's base"):
        patching.revert(edit, tmp_path / "edited", tmp_path / "out", base=tmp_path / "edited")


def test_a_folder_for_others_holds_the_patch_but_no_old_values(edit, tmp_path):
    patching.write_folder(edit, INK, tmp_path / "out")
    assert files(tmp_path / "out").keys() == files(INK).keys() | {"patch.safetensors"}
    assert read_patch(tmp_path / "out" / "patch.safetensors").base == edit.base
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    patching.revert(
        read_patch(tmp_path / "out" / "patch.safetensors"), tmp_path / "out", tmp_path / "b", base=INK
    )
    assert files(tmp_path / "b") == files(INK), "the patch that lay beside the weights is not taken along"


# ---- models on disk


def test_weights_that_would_still_be_old_are_left_out(edit, tmp_path):
    shutil.copytree(INK, tmp_path / "base")
    for name in (
        UNET.replace(".safetensors", ".fp16.safetensors"),
        "unet/diffusion_pytorch_model.bin",
        "all.ckpt",
    ):
        (tmp_path / "base" / name).write_bytes(b"old")
    (tmp_path / "base" / ".cache").mkdir()
    (tmp_path / "base" / ".cache" / "x.json").write_text("{}")
    (tmp_path / "base" / "README.md").write_text("words")
    done = patching.apply(edit, tmp_path / "base", tmp_path / "out")
    assert done.left_out == (
        "all.ckpt", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
    )  # fmt: skip
    assert files(tmp_path / "out").keys() == files(INK).keys() | {"README.md"}


def test_pickled_weights_are_refused(edit, tmp_path):
    shutil.copytree(INK, tmp_path / "base")
    (tmp_path / "base" / UNET).rename(tmp_path / "base" / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BadWeights, match=r"only pickled weights, .*\.bin.*safe_serialization=True") as err:
        patching.apply(edit, tmp_path / "base", tmp_path / "out")
    assert "\n" not in str(err.value)


def test_a_list_of_shards_that_points_elsewhere_is_refused(edit, tmp_path):
    shutil.copytree(INK, tmp_path / "base")
    (tmp_path / "base" / UNET).rename(tmp_path / "secret.safetensors")
    index = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}))
    with pytest.raises(BadWeights, match="names files that are not beside it"):
        patching.apply(edit, tmp_path / "base", tmp_path / "out")
    index.write_text("[]")
    with pytest.raises(BadWeights, match=r"cannot read .*: no JSON object"):
        patching.apply(edit, tmp_path / "base", tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "no model at"),
        (lambda p: p.mkdir(), "no weights in"),
        (lambda p: p.write_bytes(b"junk"), "cannot read weights from"),
        (lambda p: save_file({"a.weight": torch.ones(2)}, p), "is of the component unet, .* holds one model"),
        (lambda p: shutil.copytree(INK / "unet", p), "is of the component unet, .* holds one model"),
        (lambda p: shutil.copytree(INK, p, ignore=lambda *_: ["unet"]), "holds text_encoder, vae"),
    ],
)
def test_what_is_no_model_of_the_patch_is_refused(edit, tmp_path, make, words):
    make(tmp_path / "model")
    with pytest.raises(BadWeights, match=words):
        patching.apply(edit, tmp_path / "model", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_tensor_of_another_shape_is_refused(net, tmp_path):
    save_tensors(tmp_path / "base.safetensors", net.state_dict())
    done = copy.deepcopy(net)
    done[3] = nn.Linear(16, 4)
    with pytest.raises(BadWeights, match=r"3.bias has shape \(3,\) in the model and \(4,\) in the patch"):
        patching.apply(make_patch(net, done), tmp_path / "base.safetensors", tmp_path / "o.safetensors")
    done = copy.deepcopy(net)
    done.add_module("more", nn.Linear(2, 2))
    with pytest.raises(BadWeights, match=r"has no tensor more\.bias"):
        patching.apply(make_patch(net, done), tmp_path / "base.safetensors", tmp_path / "o.safetensors")


def test_what_is_there_is_not_written_over(edit, tmp_path):
    (tmp_path / "out").mkdir()
    patching.apply(edit, INK, tmp_path / "out")
    before = files(tmp_path)
    with pytest.raises(BadValue, match="is there already"):
        patching.apply(edit, INK, tmp_path / "out")
    (tmp_path / "other.undo.safetensors").write_bytes(b"of somebody")
    with pytest.raises(BadValue, match=r"other\.undo\.safetensors is there already"):
        patching.apply(edit, INK, tmp_path / "other")
    assert files(tmp_path) == before | {"other.undo.safetensors": b"of somebody"}


def test_a_failure_leaves_nothing(edit, tmp_path, monkeypatch):
    def full(self, draft, values):
        draft.mkdir()
        (draft / "half").write_bytes(b"")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "copy", full)
    with pytest.raises(StoreError, match="No space left on device; choose another place with --out"):
        patching.apply(edit, INK, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_classifier_in_a_file_goes_there_and_back(net, tmp_path):
    save_tensors(tmp_path / "base.safetensors", net.state_dict(), format="pt")
    patch = make_patch(net, edited(net, {"3.weight": normal(3, 16), "1.num_batches_tracked": 7}))
    done = patching.apply(patch, tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    assert changed(load_tensors(tmp_path / "base.safetensors"), load_tensors(done.out)).keys() == set(
        patch.names
    )
    assert int(load_tensors(done.out)["1.num_batches_tracked"]) == 7
    patching.revert(patch, done.out, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "base.safetensors").read_bytes()
    with pytest.raises(BadValue, match=r"name a \.safetensors file"):
        patching.apply(patch, tmp_path / "base.safetensors", tmp_path / "folder")


def test_a_pipeline_saved_as_one_file_takes_the_patch_too(pipeline, edit, tmp_path):
    save_tensors(tmp_path / "base.safetensors", pipeline.state_dict())
    done = patching.apply(edit, tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    assert done.rounded == 0
    after = load_tensors(done.out)
    assert all(torch.equal(after[n], t) for n, t in edit.tensors.items())


@pytest.mark.parametrize("size", ["5GB", "3KB"])
def test_tensors_are_found_under_the_names_that_transformers_saves(tmp_path, size):
    from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    base = ViTForImageClassification(ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    ))  # fmt: skip
    base.save_pretrained(tmp_path / "base", max_shard_size=size)
    done = edited(
        base, {n: normal(*t.shape) for n, t in base.state_dict().items() if "layers.1.attention" in n}
    )
    patch = make_patch(base, done)
    assert len(patch.names) == 8
    patching.apply(patch, tmp_path / "base", tmp_path / "out")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert not changed(done.state_dict(), loaded.state_dict())
    patching.revert(patch, tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == files(tmp_path / "base")


def test_a_prefix_that_loading_drops_is_no_obstacle(pipeline, tmp_path):
    """Older pipelines call the tensors of their text encoder `text_model.*`, and keep position ids."""
    shutil.copytree(INK, tmp_path / "base")
    path = tmp_path / "base" / "text_encoder" / "model.safetensors"
    old = {f"text_model.{n}": t for n, t in load_file(path).items()}
    save_file({**old, "text_model.embeddings.position_ids": torch.arange(12)[None]}, path, {"format": "pt"})
    patch = make_patch(pipeline, edited(pipeline, {WORD: low_rank(pipeline.state_dict()[WORD], 2)}))
    patching.apply(patch, tmp_path / "base", tmp_path / "out")
    after = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert set(changed(old, after)) == {
        WORD.replace("text_encoder.", "text_model."),
        "text_model.embeddings.position_ids",
    }
    loaded = load(tmp_path / "out").text_encoder.state_dict()[WORD.removeprefix("text_encoder.")]
    assert torch.equal(loaded, patch.tensors[WORD])


# ---- several patches


def saved(tmp_path, *patches):
    paths = [tmp_path / f"{k}.safetensors" for k in range(len(patches))]
    for path, patch in zip(paths, patches, strict=True):
        patch.save(path)
    return paths


def test_patches_of_other_tensors_are_joined(pipeline, edit, tmp_path):
    word = make_patch(
        pipeline, edited(pipeline, {WORD: low_rank(pipeline.state_dict()[WORD], 2)}), {"concept": "x"}
    )
    same = make_patch(pipeline, edited(pipeline, {CONV: 0.5}))
    patching.stack(saved(tmp_path, edit, word, same, edit), tmp_path / "s.safetensors")
    made = read_patch(tmp_path / "s.safetensors")
    assert made.base == {**edit.base, **word.base}
    assert all(torch.equal(made.tensors[n], t) for p in (edit, word, same) for n, t in p.tensors.items())
    assert len(made.names) == len(edit.names) + 2
    assert made.notes == {"stack": [edit.notes, {"concept": "x"}, {}, edit.notes]}


def test_patches_that_contradict_each_other_are_refused_or_summed(pipeline, edit, tmp_path):
    other = make_patch(pipeline, edited(pipeline, {KEY: 0.25, CONV: 0.5}))
    paths = saved(tmp_path, edit, other)
    with pytest.raises(BadValue, match=f"change 1 tensors in different ways: {KEY}; .* --add --base") as err:
        patching.stack(paths, tmp_path / "s.safetensors")
    assert "\n" not in str(err.value)
    patching.stack(paths, tmp_path / "s.safetensors", base=INK)
    made = read_patch(tmp_path / "s.safetensors")
    assert torch.equal(made.tensors[CONV], other.tensors[CONV])
    old = pipeline.state_dict()[KEY].double()
    total = edit.tensors[KEY].double() + other.tensors[KEY].double() - old
    assert torch.equal(made.tensors[KEY], total.float())
    patching.apply(edit, INK, tmp_path / "edited")
    with pytest.raises(BadWeights, match="belongs to another base"):
        patching.stack(paths, tmp_path / "t.safetensors", base=tmp_path / "edited")


def test_factors_of_one_weight_add_up_exactly(pipeline, tmp_path):
    module, shape = KEY.removesuffix(".weight"), pipeline.state_dict()[KEY].shape
    one = make_lora_patch(pipeline, {module: (normal(2, shape[1]), normal(shape[0], 2, seed=1))})
    two = make_lora_patch(pipeline, {
        module: (normal(3, shape[1], seed=2), normal(shape[0], 3, seed=3)),
        WORD.removesuffix(".weight"): (normal(1, 64), normal(64, 1)),
    })  # fmt: skip
    patching.stack(saved(tmp_path, one, two), tmp_path / "s.safetensors")
    made = read_patch(tmp_path / "s.safetensors")
    a, b = made.factors(KEY)
    assert a.shape == (5, shape[1])
    (a1, b1), (a2, b2) = one.factors(KEY), two.factors(KEY)
    product = b1.double() @ a1.double() + b2.double() @ a2.double()
    assert torch.allclose(b.double() @ a.double(), product, rtol=0, atol=1e-15)
    assert made.names == sorted([KEY, WORD])
    with pytest.raises(BadValue, match="some factors, which have no sum without the weights; give --add"):
        patching.stack(
            saved(tmp_path, one, make_patch(pipeline, edited(pipeline, {CONV: 1}))),
            tmp_path / "t.safetensors",
        )


def test_patches_of_different_models_are_not_stacked(pipeline, edit, net, tmp_path):
    other = make_patch(edited(pipeline, {CONV: 1}), edited(pipeline, {CONV: 2}))
    with pytest.raises(BadWeights, match="belong to different bases: the unet of one is"):
        patching.stack(saved(tmp_path, edit, other), tmp_path / "s.safetensors")
    plain = make_patch(net, edited(net, {"3.bias": 1}))
    with pytest.raises(BadWeights, match="of a pipeline and some are not"):
        patching.stack(saved(tmp_path, edit, plain), tmp_path / "s.safetensors")
    with pytest.raises(BadValue, match="at least two patches, got 1"):
        patching.stack(saved(tmp_path, edit), tmp_path / "s.safetensors")


# ---- exported as LoRA


def test_a_low_rank_edit_becomes_a_lora_that_diffusers_loads(pipeline, tmp_path):
    """Linear layers and a convolution of the UNet, and an attention of the text encoder, of unequal ranks."""
    state = pipeline.state_dict()
    edits = {KEY: low_rank(state[KEY], 3), CONV: low_rank(state[CONV], 2), WORD: low_rank(state[WORD], 4)}
    patch = make_patch(pipeline, edited(pipeline, edits))
    patching.export_lora(patch, INK, tmp_path / "lora", rank=4)
    held = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert {len(t) for n, t in held.items() if n.endswith("lora_A.weight")} == {4}
    pipe = load(INK)
    pipe.load_lora_weights(tmp_path / "lora")
    images = draw(pipe)
    assert np.abs(images - draw(directly(patch))).max() < 1e-5
    assert np.abs(images - draw(load(INK))).max() > 0.05


def test_a_lora_patch_draws_the_same_as_a_lora_and_as_a_folder(pipeline, tmp_path):
    state = pipeline.state_dict()
    factors = {n.removesuffix(".weight"): (normal(r, state[n].shape[1], scale=1), normal(len(state[n]), r, seed=1))
               for r, n in ((1, KEY), (3, KEY.replace("to_k", "to_v")))}  # fmt: skip
    patch = make_lora_patch(pipeline, factors)
    patching.export_lora(patch, INK, tmp_path / "lora")
    pipe = load(INK)
    pipe.load_lora_weights(tmp_path / "lora")
    images = draw(pipe)
    assert np.abs(images - draw(directly(patch))).max() < 1e-5
    done = patching.apply(patch, INK, tmp_path / "out")
    assert done.rounded == 2
    exact = {n: patch.value(n, state[n]).half() for n in patch.names}
    after = load_file(tmp_path / "out" / UNET)
    assert all(torch.equal(after[n.removeprefix("unet.")], t) for n, t in exact.items())
    patching.revert(patch, tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == files(INK)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (KEY, r"not of rank 4: .*to_k\.weight needs rank \d+ of 64 .*, and rank 4 misses \d\d\.\d%; give --as folder, or"),
        ("unet.conv_in.bias", r"changes unet\.conv_in\.bias \(1 such\)"),
        ("text_encoder.embeddings.token_embedding.weight", "no LoRA that diffusers reads: .* only q_proj, k_proj"),
    ],
)  # fmt: skip
def test_an_edit_that_is_no_lora_is_refused_with_its_rank(pipeline, tmp_path, name, words):
    t = pipeline.state_dict()[name]
    d = normal(*t.shape) if "token" not in name else low_rank(t, 1)
    with pytest.raises(BadValue, match=words) as err:
        patching.export_lora(
            make_patch(pipeline, edited(pipeline, {name: d})), INK, tmp_path / "lora", rank=4
        )
    assert "\n" not in str(err.value)
    assert not (tmp_path / "lora").exists()


def test_an_edit_of_no_pipeline_is_no_lora(net, tmp_path):
    save_tensors(tmp_path / "base.safetensors", net.state_dict())
    patch = make_patch(net, edited(net, {"3.weight": low_rank(net[3].weight, 1)}))
    with pytest.raises(BadValue, match="an edit of no pipeline"):
        patching.export_lora(patch, tmp_path / "base.safetensors", tmp_path / "lora")
    with pytest.raises(BadValue, match="an edit that changes nothing"):
        patching.export_lora(make_patch(net, net), tmp_path / "base.safetensors", tmp_path / "lora")


def test_the_rank_is_the_smallest_that_meets_the_tolerance():
    """A diagonal of 1, 0.1 and 0.0009: without the last, 0.0009 / sqrt(1.0101) of the norm is missed."""
    d = torch.diag(torch.tensor([1.0, 0.1, 0.0009]))
    a, b = factorised({"x.weight": d}, 3)["x.weight"]
    assert a.shape == (2, 3)
    assert torch.allclose(b @ a, torch.diag(torch.tensor([1.0, 0.1, 0.0])), atol=1e-7)
    with pytest.raises(BadValue, match=r"needs rank 2 of 3 to be met up to 0\.1%, and rank 1 misses 10\.0%"):
        factorised({"x.weight": d}, 1)
    many = torch.diag(torch.tensor([1.0, *[0.0004] * 100]))  # six of the small ones may be missed, not seven
    assert factorised({"x.weight": many}, 95)["x.weight"][0].shape == (95, 101)


def test_factors_are_padded_to_one_rank_in_each_component():
    a, b = normal(1, 3), normal(4, 1)
    wide = (normal(2, 5), normal(6, 2))
    state = lora_state({"unet.a.weight": (a, b), "unet.b.weight": wide, "text_encoder.q_proj.weight": (a, b)})
    assert state["unet.a.lora_A.weight"].shape == (2, 3)
    assert torch.equal(state["unet.a.lora_B.weight"] @ state["unet.a.lora_A.weight"], b @ a)
    assert state["text_encoder.q_proj.lora_A.weight"].shape == (1, 3)


def test_every_refusal_is_an_error_of_ours(edit, tmp_path):
    with pytest.raises(UnlearnError, match="give a folder"):
        patching.write_folder(edit, INK / UNET, tmp_path / "o.safetensors")
    assert open_checkpoint(INK)["unet.conv_in.weight"].dtype == torch.float16
