"""Pipelines of every layout edited: on disk, read by plain diffusers, and at hand."""

import copy

import pytest
import torch
from pipelines import (
    GUIDANCE,
    LAYOUTS,
    SIZE,
    STEPS,
    UNETS,
    batch,
    loaded,
    pipe_of,
    plain,
    rng,
    split,
    trained,
)

import unlearn
from unlearn.errors import BadWeights, Mismatch, OutOfMemory
from unlearn.methods.esd import ESD
from unlearn.methods.spm import SPM
from unlearn.methods.uce import UCE
from unlearn.ops import hub
from unlearn.ops.weights import edit_of
from unlearn.patch import read_patch
from unlearn.patching import PATCH, export_lora, write_folder
from unlearn.registry import fitting, methods
from unlearn.runtime import Run, within_memory
from unlearn.scenarios._diffusion import load_pipeline
from unlearn.subjects._pipelines import Drawing, subject_of

pytestmark = pytest.mark.xdist_group("pipelines")  # diffusers is imported once


@pytest.fixture(scope="module", autouse=True)
def quiet():
    hub.quiet()


# Editing, saving, and drawing by plain diffusers


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_erased_pipeline_is_saved_and_drawn_by_plain_diffusers(layout, saved, tmp_path):
    from diffusers import DiffusionPipeline

    found = load_pipeline(str(saved(layout)), STEPS, GUIDANCE, SIZE)
    run, clone = Run(), found.subject.clone()
    done = ESD(iterations=40, batch_size=1, pool=1, lr=2e-3).unlearn(clone, split(found), run)
    assert run.log["loss"][0] > 1e-6, "one latent, time and target"
    assert run.log["loss"][-1] < run.log["loss"][0] / 2
    edit = edit_of(found.subject, done, {"method": "esd"})
    assert set(edit.names) == trained(layout, "x")
    write_folder(edit, saved(layout), tmp_path / "out")
    written = read_patch(tmp_path / "out" / PATCH)
    assert written.names == edit.names and written.notes == {"method": "esd"}
    ours = done.draw(batch(found), rng())
    assert (ours - found.subject.draw(batch(found), rng())).abs().max() > 1e-3
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None) if layout in ("sd1", "sd2") else (
        DiffusionPipeline.from_pretrained(tmp_path / "out"))  # fmt: skip
    torch.testing.assert_close(ours, plain(pipe, done, layout), atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", ["sdxl", "sd3", "flux-schnell"])
def test_strictly_keys_and_values_of_the_text(layout):
    found = loaded(layout)
    done = ESD(train="strict", iterations=2, batch_size=1).unlearn(found.subject.clone(), split(found), Run())
    assert set(edit_of(found.subject, done, {}).names) == trained(layout, "strict")


@pytest.mark.parametrize("layout", UNETS)
def test_closed_form_edits_send_the_concept_to_its_anchor(layout):
    """With next to no ridge and nothing held, W maps each state of the concept to what W₀ made of the anchor."""
    found = loaded(layout)
    s, data = found.subject, split(found, anchor=("dog", "a dog"))
    done = UCE(keep=0.0, ridge=1e-7).unlearn(s.clone(), data, Run())
    assert set(edit_of(s, done, {}).names) == {n for n in trained(layout, "strict")}
    rows = torch.arange(2)
    (c, at), (g, to) = (s.words(next(h.batches(2))) for h in (data.concept, data.anchor))
    for old, new in zip(s.projections(), done.projections(), strict=True):
        torch.testing.assert_close(new(c[rows, at]), old(g[rows, to]), atol=1e-3, rtol=1e-3)
        assert (old(c[rows, at]) - old(g[rows, to])).abs().max() > 1e-2


def test_what_a_method_adds_is_no_part_of_a_pipeline():
    s = loaded("sd1").subject
    guide = torch.nn.Module()
    guide.register_buffer("prompt", s.empty.clone())
    with pytest.raises(Mismatch, match=r"added guides\.0\.prompt \(1 such tensors\).*--out FILE"):
        edit_of(s, s.steered(guide), {})


def test_adapters_that_always_act_alike_are_a_low_rank_edit(saved, tmp_path):
    from diffusers import DiffusionPipeline

    found = load_pipeline(str(saved("sd1")), STEPS, GUIDANCE, 16)
    s, done = found.subject, found.subject.clone()
    for seed, anchor in enumerate((("", ""), ("dog", "a dog"))):
        method = SPM(iterations=3, batch_size=1, pool=3, lr=0.1, transport="always")
        done = method.unlearn(done, split(found, anchor=anchor), Run(seed))
    edit = edit_of(s, done, {"method": method.to_dict()})
    assert edit.kind == "lora" and {len(edit.factors(n)[0]) for n in edit.names} == {2}, (
        "one rank for each adapter"
    )
    write_folder(edit, saved("sd1"), tmp_path / "out")
    export_lora(edit, saved("sd1"), tmp_path / "lora")
    texts = ["a cat", "a picture of the dog"]
    z = s.noise(2, torch.Generator().manual_seed(3))
    images = done.draw_from(done.encode(batch(found, texts)), z)
    assert not torch.allclose(images, s.draw_from(s.encode(batch(found, texts)), z), atol=1e-3)
    again = load_pipeline(str(tmp_path / "out"), STEPS, GUIDANCE, 16).subject
    assert torch.allclose(again.draw_from(again.encode(batch(found, texts)), z), images, atol=1e-4)
    pipe = DiffusionPipeline.from_pretrained(saved("sd1"), safety_checker=None)
    pipe.load_lora_weights(tmp_path / "lora")
    with_lora = subject_of(pipe, Drawing(STEPS, GUIDANCE, 16)).subject
    assert torch.allclose(with_lora.draw_from(with_lora.encode(batch(found, texts)), z), images, atol=1e-4)


def test_what_depends_on_the_prompt_is_no_edit_of_weights():
    s = loaded("sd1").subject
    done = SPM(iterations=1, batch_size=1, pool=1).unlearn(s.clone(), split(loaded("sd1")), Run())
    with pytest.raises(Mismatch, match=r"added adapters\.0\."):
        edit_of(s, done, {})


# A pipeline that is at hand


@pytest.mark.parametrize("layout", LAYOUTS)
def test_erase_changes_a_pipeline_in_place(layout, monkeypatch):
    pipe = pipe_of(layout)
    held = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    before = {n: copy.deepcopy(m.state_dict()) for n, m in held.items()}
    next(held["vae"].parameters()).requires_grad_(False)
    flags = [p.requires_grad for m in held.values() for p in m.parameters()]
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("a second model was made"))
    state = torch.random.get_rng_state()
    done = unlearn.erase(pipe, "cat", preserve=["dog"], iterations=2, batch_size=1, pool=2)
    assert done is pipe and all(pipe.components[n] is m for n, m in held.items())
    assert [p.requires_grad for m in held.values() for p in m.parameters()] == flags
    assert torch.equal(torch.random.get_rng_state(), state)
    moved = {
        f"{n}.{k}"
        for n, m in held.items()
        for k, t in m.state_dict().items()
        if not torch.equal(t, before[n][k])
    }
    assert moved == trained(layout, "x")


def test_adapters_that_always_act_alike_are_merged_in_place():
    pipe, few = pipe_of("sd1"), {"iterations": 3, "batch_size": 1, "pool": 3, "lr": 0.1}
    other = subject_of(pipe_of("sd1")).subject
    unlearn.erase(pipe, "cat", "spm", transport="always", **few)
    done = SPM.preset("paper", transport="always", **few)
    told = subject_of(pipe_of("sd1"))
    other = done.unlearn(told.subject, split(told, ("cat", "a picture of cat"), ("", "")), Run())
    edit = edit_of(told.subject.bare(), other, {})
    for name, old in told.subject.bare().module.state_dict().items():
        part, _, inside = name.partition(".")
        new = edit.value(name, old) if name in edit.names else old
        assert torch.allclose(getattr(pipe, part).state_dict()[inside], new, atol=1e-6), name


def test_half_precision_is_edited_in_single_precision_and_put_back():
    pipe, single = pipe_of("sd1").to(torch.float16), pipe_of("sd1").to(torch.float16).to(torch.float32)
    for each in (pipe, single):
        unlearn.erase(each, "cat", iterations=3, batch_size=1, pool=2, lr=1e-3)
    found, expected = pipe.unet.state_dict(), single.unet.state_dict()
    assert all(t.dtype == torch.float16 and torch.equal(t, expected[n].half()) for n, t in found.items())
    assert pipe.text_encoder.dtype == torch.float16
    unlearn.erase(pipe, "cat", "mace", iterations=1, batch_size=1, images=2, anchor="dog")  # looks at images
    assert all(t.dtype == torch.float16 for t in pipe.vae.state_dict().values())


def test_an_edit_that_changes_nothing_or_breaks_the_model_is_no_success():
    with pytest.raises(BadWeights, match="esd changed no weight, so 'cat' is not erased"):
        unlearn.erase(pipe_of("sd1"), "cat", iterations=1, batch_size=1, pool=1, lr=1e-45)
    with pytest.raises(BadWeights, match=r"not finite, so the pipeline is of no use; load it again"):
        unlearn.erase(pipe_of("sd1"), "cat", iterations=3, batch_size=1, pool=1, lr=1e30)


def test_a_pipeline_of_ones_own_gets_the_published_setting():
    for name in fitting("text-to-image"):
        cls = methods.get(name)
        own = unlearn.api.build_method(name, {}, own=True)
        assert own == (cls.preset(cls.own) if cls.own else cls())
    assert unlearn.api.build_method("esd", {"lr": 1e-3}, own=True) == ESD.preset("diffusers", lr=1e-3)
    assert unlearn.api.build_method("esd", {}, "sdxl", own=True) == ESD.preset("sdxl")


def test_several_concepts_are_erased_one_after_the_other():
    together, single = pipe_of("sd1"), pipe_of("sd1")
    unlearn.erase(together, ["cat", "dog", "cat"], UCE())
    for name in ("cat", "dog"):
        unlearn.erase(single, name, "uce")
    assert all(torch.equal(p, single.unet.get_parameter(n)) for n, p in together.unet.named_parameters())


def test_bad_input_is_refused_in_one_line_and_changes_nothing():
    pipe = pipe_of("sd3")
    before = copy.deepcopy(pipe.transformer.state_dict())
    refused = {
        "uce does not fit a FlowToImage.*choose one of .*esd": {"method": "uce"},
        "ssd does not fit": {"method": "ssd"},
        "sld does not fit": {"method": "sld"},
        "no method called 'esdd'": {"method": "esdd"},
        "names no concept": {"concept": " "},
        "'cat' is to be erased and preserved": {"preserve": ["dog", "cat"]},
        "esd: lr must be > 0": {"lr": -1.0},
        "leave out lr": {"method": ESD(), "lr": 1.0},
    }
    for said, given in refused.items():
        with pytest.raises(unlearn.errors.UnlearnError, match=said) as caught:
            unlearn.erase(pipe, **{"concept": "cat", **given})
        assert "\n" not in str(caught.value)
    assert all(torch.equal(t, before[n]) for n, t in pipe.transformer.state_dict().items())
    with pytest.raises(
        Mismatch, match=r"a list is not supported; give a StableDiffusionPipeline, .*FluxPipeline"
    ):
        unlearn.erase([], "cat")
    pipe.text_encoder_2 = None
    with pytest.raises(Mismatch, match="has no text_encoder_2"):
        unlearn.erase(pipe, "cat")


def test_memory_that_does_not_suffice_is_one_line():
    with (
        pytest.raises(OutOfMemory, match=r"can't allocate memory.*lower the method's batch size"),
        within_memory(),
    ):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="size"), within_memory():
        torch.zeros(2) @ torch.zeros(3)
