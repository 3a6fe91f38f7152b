"""The user's own pipelines: five layouts that draw as plain diffusers does, are edited, saved, and drawn by it again."""

import copy
import functools
import inspect
import json
import math
import shutil

import pipelines
import pytest
import torch
from pipelines import LAYOUTS, build

import unlearn
from unlearn.data import Batch, Resident, Split
from unlearn.errors import BadValue, BadWeights, Mismatch, OutOfMemory
from unlearn.methods.esd import ESD
from unlearn.methods.uce import UCE
from unlearn.ops import hub, latents
from unlearn.ops.clip_text import read, read_embedded
from unlearn.ops.recipe import SGD
from unlearn.ops.weights import edit_of
from unlearn.patch import read_patch
from unlearn.patching import PATCH, write_folder
from unlearn.registry import fitting, methods
from unlearn.runtime import Run, within_memory
from unlearn.scenarios._diffusion import load_pipeline
from unlearn.sources import Arrays
from unlearn.subject import Adapts, CrossAttends, Prompted, Steers
from unlearn.subjects._layouts import packed
from unlearn.subjects._pipelines import Drawing, subject_of
from unlearn.testing import check_subject

pytestmark = pytest.mark.xdist_group("pipelines")  # diffusers is imported once
STEPS, GUIDANCE, SIZE = 3, 2.0, 16
UNETS = ("sd1", "sd2", "sdxl")
TEXTS = ["a cat", "the dog"]
TRAINED = {
    "x": {"unet": (".attn2.",), "transformer": (".add_q_proj.", ".add_k_proj.", ".add_v_proj.", ".to_add_out.")},
    "strict": {"unet": (".attn2.to_k.", ".attn2.to_v."), "transformer": (".add_k_proj.", ".add_v_proj.")},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet():
    hub.quiet()


@functools.cache
def _made(layout):
    hub.quiet()
    return build(layout)


def pipe_of(layout):
    """A private pipeline of this layout."""
    made = _made(layout)
    pipe = type(made)(**{n: copy.deepcopy(m) for n, m in made.components.items()})
    if layout.startswith("flux"):
        pipe.default_sample_size = made.default_sample_size
    return pipe


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a layout."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(layout):
        path = root / layout
        if not path.is_dir():
            _made(layout).save_pretrained(path)
        return path

    return folder


def loaded(layout, size=SIZE):
    return subject_of(pipe_of(layout), Drawing(STEPS, GUIDANCE, size))


def batch(found, texts=TEXTS):
    ids = found.ids(texts)
    return Batch(torch.zeros(len(ids), 0), ids, torch.arange(len(ids)))


def rng(seed=5):
    return torch.Generator().manual_seed(seed)


def told(found, *texts):
    """A set of prompts."""
    return Resident(Arrays(torch.zeros(len(texts), 0), found.ids(texts)))


def split(found, concept=("cat", "a cat"), anchor=("", ""), preserve=("the dog",)):
    return Split(
        None, None, None, None, None, told(found, *concept), told(found, *anchor), told(found, *preserve)
    )


def plain(pipe, subject, layout, texts=TEXTS):
    """What plain diffusers draws from the latents that a subject would start from."""
    pipe.set_progress_bar_config(disable=True)
    z = torch.randn(len(texts), *subject.shape, generator=rng())
    if layout.startswith("flux"):
        z = packed(z)
    guided = {"guidance_scale": GUIDANCE}
    if layout == "flux-schnell":
        guided = {"true_cfg_scale": GUIDANCE, "negative_prompt": [""] * len(texts)}
    return pipe(
        texts, latents=z, height=SIZE, width=SIZE, num_inference_steps=STEPS, output_type="pt", **guided
    ).images


# Drawing


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_diffusers_draws_the_same_from_the_same_latents(layout):
    found = loaded(layout)
    ours = found.subject.draw(batch(found), rng())
    torch.testing.assert_close(ours, plain(pipe_of(layout), found.subject, layout), atol=1e-4, rtol=0)
    other = found.subject.draw(batch(found, TEXTS[::-1]), rng())
    assert (ours - other).abs().amax((1, 2, 3)).min() > 1e-3, "the prompt decides, too"


def test_without_t5_zeros_stand_in_for_its_states():
    made = pipe_of("sd3")
    made.text_encoder_3 = made.tokenizer_3 = None
    found = subject_of(made, Drawing(STEPS, GUIDANCE, SIZE))
    assert found.ids(TEXTS).shape == (2, 2 * pipelines.TOKENS)
    ours = found.subject.draw(batch(found), rng())
    torch.testing.assert_close(ours, plain(made, found.subject, "sd3"), atol=1e-4, rtol=0)


def test_schedulers_that_say_nothing_of_clipping_do_not_clip():
    """Euler's and PNDM's settings do not; DDIM would clip latents to one by default."""
    from diffusers import EulerDiscreteScheduler

    settings = dict(pipelines.ddim().config)
    euler = EulerDiscreteScheduler(
        **{k: settings[k] for k in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    )
    assert "clip_sample" not in euler.config
    ours = loaded("sd1").subject
    ours.scheduler = euler
    assert ours._ddim().config.clip_sample is False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_much_is_drawn_by_default_is_up_to_the_pipeline(layout):
    pipe = pipe_of(layout)
    subject = subject_of(pipe).subject
    known = inspect.signature(type(pipe).__call__).parameters
    assert subject.steps == known["num_inference_steps"].default
    assert subject.guidance == (1.0 if layout == "flux-schnell" else known["guidance_scale"].default)
    assert subject.shape == (4, 8, 8)


@pytest.mark.parametrize(("layout", "verb"), [("sd1", "_denoised"), ("sd3", "_carried")])
def test_many_drawings_are_made_a_few_at_a_time(layout, verb, monkeypatch):
    found = loaded(layout)
    some, sizes, kind = batch(found, ["a cat", "the dog", "monet", "van", "a dog"]), [], type(found.subject)
    whole, real = found.subject.draw(some, rng()), getattr(kind, verb)
    monkeypatch.setattr(kind, verb, lambda s, z, *rest: (sizes.append(len(z)), real(s, z, *rest))[1])
    monkeypatch.setattr(latents, "AT_ONCE", 2 * 4 * 8 * 8 + 1)
    torch.testing.assert_close(found.subject.draw(some, rng()), whole, atol=1e-4, rtol=0)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("layout", "rows"), [("flux-dev", [2]), ("flux-schnell", [4]), ("sd3", [4])])
def test_a_distilled_transformer_is_told_the_scale_and_takes_one_row(layout, rows, monkeypatch):
    found = loaded(layout)
    s, seen = found.subject, []
    real = type(s).predict
    monkeypatch.setattr(
        type(s), "predict", lambda self, z, t, c: (seen.append(len(z)), real(self, z, t, c))[1]
    )
    cond = s.encode(batch(found))
    a, b = (s.trajectory(cond, 1, g, rng())[0] for g in (2.0, 4.0))
    assert seen == 2 * rows
    assert not torch.equal(a, b)
    seen.clear()
    s.trajectory(cond, 1, 1.0, rng())
    assert seen == [2], "without guidance nothing leads away"
    assert ("guidance" in cond) is (layout == "flux-dev")


# Flows


def test_noise_and_velocity_of_a_flow_by_hand():
    s = loaded("sd3").subject
    x, noise = torch.full((2, 4, 8, 8), 2.0), torch.full((2, 4, 8, 8), -1.0)
    z, v = s.noised(x, torch.tensor([250.0, 1000.0]), noise)
    assert torch.allclose(z[0], torch.tensor(0.75 * 2 - 0.25)) and torch.equal(z[1], noise[1])
    assert torch.equal(v, torch.full_like(v, -3.0))


SMALL = math.exp(0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256))
"""FLUX.1's shift of an image of 16 tokens: a straight line through (256, 0.5) and (4096, 1.15), as an exponent."""


@pytest.mark.parametrize(("layout", "shift"), [("sd3", 3.0), ("flux-dev", SMALL), ("flux-schnell", 1.0)])
def test_times_of_a_flow_are_shifted_as_its_samples_are(layout, shift):
    """The shift moves the median of σ, one half, to s / (1 + s)."""
    s, median = loaded(layout).subject, 1000 * shift / (1 + shift)
    times = s.times(20001, rng())
    assert times.min() > 0 and times.max() < 1000
    assert times.median() == pytest.approx(median, rel=0.02)
    if layout != "sd3":  # whose scheduler shifts its ends, too, and spaces the rest between them
        s.steps = 2
        assert s._sampler().timesteps[1].item() == pytest.approx(median, rel=1e-5)


def test_a_velocity_is_an_affine_function_of_the_score():
    """Of a Gaussian x₀ all is known: E[ε − x₀ | z] by regression equals −(z + σ s(z)) / (1 − σ)."""
    m, sd, sigma = 0.7, 1.3, 0.4
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    variance = (1 - sigma) ** 2 * sd**2 + sigma**2
    score = -(z - (1 - sigma) * m) / variance
    slope = (sigma - (1 - sigma) * sd**2) / variance
    expected = -m + slope * (z - (1 - sigma) * m)
    assert torch.allclose(expected, -(z + sigma * score) / (1 - sigma), rtol=1e-12)


# Conditionings


@pytest.mark.parametrize("projection", [None, 12])
@pytest.mark.parametrize("old", [False, True])
def test_embedded_tokens_are_read_as_their_ids(projection, old):
    encoder = pipelines.clip(16, projection).eval()
    if old:
        encoder.config.eos_token_id = 2
        getattr(encoder, "text_model", encoder).eos_token_id = 2
    ids = pipelines.clip_words()(TEXTS, padding="max_length", return_tensors="pt").input_ids
    embedded = encoder.get_input_embeddings().weight[ids].detach().requires_grad_()
    a, b = read(encoder, ids), read_embedded(encoder, embedded, ids)
    for name in ("last", "before", "pooled"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.autograd.grad(b.pooled[:, 0].sum(), embedded)[0].any()


def test_sdxl_is_told_states_pooled_vector_and_size():
    found = subject_of(pipe_of("sdxl"), Drawing(STEPS, GUIDANCE, 32))
    s, b = found.subject, batch(found)
    cond = s.encode(b)
    assert {n: tuple(c.shape) for n, c in cond.items()} == {
        "states": (2, 12, 40),
        "pooled": (2, 20),
        "time_ids": (2, 6),
    }
    assert cond["time_ids"][1].tolist() == [32, 32, 0, 0, 32, 32]
    assert not s.null(2)["states"].any() and not s.null(2)["pooled"].any()
    assert s.null(2)["time_ids"].tolist() == cond["time_ids"].tolist()
    s.blank_is_zero = False
    empty = s.encode(batch(found, ["", ""]))
    assert all(torch.allclose(s.null(2)[n], empty[n], atol=1e-6) for n in cond)
    assert torch.allclose(s.blank(2), empty["states"], atol=1e-6)


def test_soft_prompts_of_sdxl_reach_both_encoders():
    found = loaded("sdxl")
    s, b = found.subject, batch(found)
    table = s.embeddings()
    assert table.shape == (len(pipelines.clip_words()), 40)
    embedded = table[b.y].detach().requires_grad_()
    cond, plainly = s.encode_embedded(embedded, b.y), s.encode(b)
    assert all(torch.equal(cond[n], plainly[n]) for n in cond)
    for name in ("states", "pooled"):
        grad = torch.autograd.grad(cond[name].sum(), embedded, retain_graph=True)[0]
        assert grad[:, :3, 16:].any() and not grad[0, -1, 16:].any(), name  # its padding is its own
    first = torch.autograd.grad(cond["states"][:, :, :16].sum(), embedded)[0]
    assert first[:, :, :16].any() and not first[:, :, 16:].any()


def test_the_second_encoder_of_sdxl_has_padding_of_its_own():
    """The released pipeline pads prompts for its second encoder with another token than the end of text."""
    import copy

    other = copy.deepcopy(pipelines.clip_words())
    other.pad_token = "a"
    pipe = pipelines.build("sdxl", tokenizer_2=other)
    found = subject_of(pipe, Drawing(STEPS, GUIDANCE))
    s, texts = found.subject, ["a cat", "a picture of the dog"]
    said = s.encode(batch(found, texts))
    states, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    assert torch.allclose(said["states"], states, atol=1e-6) and torch.allclose(
        said["pooled"], pooled, atol=1e-6
    )
    b = batch(found, texts)
    embedded = s.encode_embedded(s.embeddings()[b.y].detach(), b.y)
    assert all(torch.equal(embedded[n], said[n]) for n in said)


def test_tokenizers_of_sdxl_that_split_differently_are_refused():
    with pytest.raises(Mismatch, match=r"split prompts differently, which is not supported; give it two"):
        subject_of(pipelines.build("sdxl", tokenizer_2=pipelines.t5_words()))


def test_encoders_with_different_vocabularies_share_no_embedding():
    found = loaded("sdxl")
    found.subject.module["text_encoder_2"].resize_token_embeddings(90)
    with pytest.raises(Mismatch, match=r"vocabularies of .* and 90 tokens"):
        found.subject.embeddings()


def test_words_of_sdxl_end_where_a_prompt_does():
    found = loaded("sdxl")
    states, last = found.subject.words(batch(found, ["cat", "a picture of the dog", ""]))
    assert states.shape == (3, 12, 40) and last.tolist() == [1, 5, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_layouts_offer(layout):
    s = loaded(layout).subject
    offered = {p.__name__ for p in (CrossAttends, Prompted, Steers, Adapts) if isinstance(s, p)}
    assert offered == ({"CrossAttends", "Prompted", "Steers", "Adapts"} if layout in UNETS else set())


@pytest.mark.parametrize("layout", ["sdxl", "sd3", "flux-dev"])
def test_the_kit_finds_nothing_wrong(layout):
    def make():
        found = loaded(layout)
        if layout == "sdxl":
            found.subject.recipe = SGD(epochs=1, lr=0.01, batch_size=2)
        x = torch.randn(4, *found.subject.shape, generator=rng())
        return found.subject, Resident(Arrays(x, found.ids(["cat", "dog", "a cat", "monet"])))

    check_subject(make)


# Editing, saving, and drawing by plain diffusers


def trained(layout, train):
    """Names of the tensors that ESD may change."""
    component = "unet" if layout in UNETS else "transformer"
    names = _made(layout).components[component].state_dict()
    found = {f"{component}.{n}" for n in names if any(part in f".{n}" for part in TRAINED[train][component])}
    last = ".transformer_blocks.1.attn.add_q_proj."  # of SD3's last block: what the text stream becomes is not used
    return {n for n in found if layout != "sd3" or last not in n}


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


# What cannot be loaded


def spoilt(folder, tmp_path, change):
    copied = tmp_path / "spoilt"
    shutil.copytree(folder, copied)
    change(copied)
    return str(copied)


def rewritten(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def pickled(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, path.with_suffix(".bin"))
    path.unlink()


BROKEN = {
    "no-index": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "class": (rewritten("model_index.json", _class_name="KandinskyPipeline"), "a KandinskyPipeline is not supported; give a Stable"),
    "custom-code": (rewritten("model_index.json", _class_name=["mine.py", "Mine"]), "is not supported"),
    "pickled": (pickled, "only pickled weights.*with safetensors"),
    "truncated": (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no"), "cannot read weights"),
    "missing": (lambda f: shutil.rmtree(f / "text_encoder"), "no text-to-image pipeline at"),
    "predicts": (rewritten("scheduler/scheduler_config.json", prediction_type="sample"), "predicts 'sample' is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_pipeline_is_one_line(how, saved, tmp_path):
    change, said = BROKEN[how]
    with pytest.raises((BadWeights, Mismatch), match=said) as caught:
        load_pipeline(spoilt(saved("sd1"), tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_flow_needs_a_scheduler_with_a_shift(saved, tmp_path):
    wrong = rewritten("scheduler/scheduler_config.json", _class_name="DDIMScheduler")

    def change(folder):
        wrong(folder)
        index = rewritten("model_index.json", scheduler=["diffusers", "DDIMScheduler"])
        index(folder)

    with pytest.raises(Mismatch, match="a DDIMScheduler is not supported here"):
        load_pipeline(spoilt(saved("sd3"), tmp_path, change))


@pytest.mark.parametrize(("where", "said"), [("./nowhere", "there is no such folder;"), ("a/b/c", "there is no such folder;"),
                                             ("nobody/nothing", "the hub cannot be reached")])  # fmt: skip
def test_a_place_without_a_pipeline_is_one_line(where, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadWeights, match=said):
        load_pipeline(where)


def test_images_have_sides_that_the_layout_can_draw():
    with pytest.raises(BadValue, match="multiples of 4, got 18"):
        subject_of(pipe_of("flux-dev"), Drawing(size=18))
