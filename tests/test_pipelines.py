"""The user's own pipelines: five layouts that draw as plain diffusers does, are edited, saved, and drawn by it again."""

import copy
import inspect
import json
import math
import shutil

import pipelines
import pytest
import torch
from pipelines import (
    GUIDANCE,
    LAYOUTS,
    SIZE,
    STEPS,
    TEXTS,
    UNETS,
    batch,
    loaded,
    pipe_of,
    plain,
    rng,
)

from unlearn.data import Resident
from unlearn.errors import BadValue, BadWeights, Mismatch
from unlearn.ops import hub, latents
from unlearn.ops.clip_text import read, read_embedded
from unlearn.ops.erasure import chosen
from unlearn.ops.freezing import only
from unlearn.ops.recipe import SGD
from unlearn.scenarios._diffusion import load_pipeline
from unlearn.sources import Arrays
from unlearn.subject import Adapts, CrossAttends, Prompted, Steers
from unlearn.subjects._pipelines import Drawing, subject_of
from unlearn.testing import check_subject

pytestmark = pytest.mark.xdist_group("pipelines")  # diffusers is imported once


@pytest.fixture(scope="module", autouse=True)
def quiet():
    hub.quiet()


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
    """Of a Gaussian x₀ the score of z is known; the regression of ε − x₀ on z is −(z + σ score(z)) / (1 − σ)."""
    m, sd, sigma, g = 0.7, 1.3, 0.4, rng()
    x = m + sd * torch.randn(4000, 4, 8, 8, generator=g)
    t = torch.full((4000,), 1000 * sigma)
    z, v = (a.flatten() for a in loaded("sd3").subject.noised(x, t, torch.randn(x.shape, generator=g)))
    (variance, covariance), _ = torch.cov(torch.stack([z, v]))
    slope = covariance / variance
    spread = (1 - sigma) ** 2 * sd**2 + sigma**2
    at = torch.linspace(-3, 3, 7)
    score = -(at - (1 - sigma) * m) / spread
    regressed = v.mean() + slope * (at - z.mean())
    assert torch.allclose(regressed, -(at + sigma * score) / (1 - sigma), atol=0.02)


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_paper_leaves_out_of_u(layout):
    """Cross-attention, the output and the embedding of time; what pools the text or the image's size trains."""
    found = loaded(layout)
    with only(found.subject.module, chosen(found.subject, "u")) as params:
        named = {id(p): n for n, p in found.subject.denoiser.named_parameters()}
        trains = {named[id(p)] for p in params}
    left = {n.partition(".")[0] for n in named.values()} - {n.partition(".")[0] for n in trains}
    unet = {"time_embedding", "conv_norm_out", "conv_out"}
    assert left == (unet if layout in UNETS else {"norm_out", "proj_out"})
    if layout in UNETS:
        assert not any(".attn2." in n for n in trains)
    else:
        assert not any("add_q_proj" in n or "timestep_embedder" in n for n in trains)
        assert any(n.startswith("time_text_embed.text_embedder") for n in trains)


@pytest.mark.parametrize("layout", ["sd1", "sd3", "flux-dev"])
def test_times_between_two_steps_of_the_sampler(layout):
    subject = loaded(layout).subject
    told = subject.null(1)
    reached = [float(subject.trajectory(told, k, 1.0, rng())[1]) for k in range(STEPS)]
    for k, low in enumerate(reached):
        t = subject.between(torch.full((500,), k), rng())
        high = reached[max(k - 1, 0)] if layout not in UNETS else low + 1000 / STEPS
        assert float(t.min()) >= low - 1 and float(t.max()) <= min(high + 1, 1000)
        assert float(t.max() - t.min()) >= 0.95 * (high - low) - 2
