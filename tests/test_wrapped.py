"""What acts beside a pipeline's weights, from Python: a wrapper that draws with it, also after more was erased."""

import copy

import pytest
import torch
from pipelines import GUIDANCE, SIZE, STEPS, TEXTS, pipe_of, plain, rng

import unlearn
from unlearn.errors import BadValue, Mismatch
from unlearn.methods.sld import SLD
from unlearn.ops import hub
from unlearn.subjects._pipelines import subject_of
from unlearn.subjects._wrapped import Wrapped

pytestmark = pytest.mark.xdist_group("pipelines")  # diffusers is imported once

FEW = {"iterations": 3, "batch_size": 1, "pool": 3, "lr": 0.1, "warmup": 0}
STRONG = {"warmup": 1, "scale": 300.0, "threshold": 1e-3, "momentum": 0.4, "beta": 0.6}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    hub.quiet()


def drawn(made, texts=TEXTS, **more):
    how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "generator": rng(), "output_type": "pt"}
    return made(texts, **{**how, **more}).images


def usual(layout="sd1", texts=TEXTS):
    """What plain diffusers draws from the same noise."""
    pipe = pipe_of(layout)
    return plain(pipe, subject_of(pipe).subject, layout, texts)


@pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning")
def test_sld_draws_what_its_authors_pipeline_draws():
    from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

    pipe = pipe_of("sd1")
    parts = {n: copy.deepcopy(m) for n, m in pipe.components.items() if n != "image_encoder"}
    theirs = StableDiffusionPipelineSafe(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.safety_concept = "cat"
    named = {"sld_warmup_steps": 1, "sld_guidance_scale": 300.0, "sld_threshold": 1e-3,
             "sld_momentum_scale": 0.4, "sld_mom_beta": 0.6}  # fmt: skip
    expected = theirs(
        TEXTS, height=SIZE, width=SIZE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np",
        latents=torch.randn(2, 4, 8, 8, generator=rng()), **named,
    ).images  # fmt: skip
    done = unlearn.erase(pipe, "cat", "sld", **STRONG)
    assert isinstance(done, Wrapped)
    found = drawn(done, output_type="np")
    assert abs(found - expected).max() < 1e-4
    assert abs(usual().permute(0, 2, 3, 1).numpy() - expected).max() > 1e-3, "the guide decides, too"


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_a_guide_without_weight_draws_as_plain_diffusers(layout):
    done = unlearn.erase(pipe_of(layout), "cat", "sld", **{**STRONG, "scale": 0.0})
    torch.testing.assert_close(drawn(done), usual(layout), atol=1e-4, rtol=0)


def test_the_pipeline_itself_keeps_its_weights_and_lends_everything_else():
    pipe = pipe_of("sd1")
    held = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    before = {n: copy.deepcopy(m.state_dict()) for n, m in held.items()}
    done = unlearn.erase(pipe, "cat", "sld")
    assert done.pipeline is pipe and all(pipe.components[n] is m for n, m in held.items())
    assert all(torch.equal(t, before[n][k]) for n, m in held.items() for k, t in m.state_dict().items())
    assert done.unet is pipe.unet and done.tokenizer is pipe.tokenizer
    assert copy.copy(done).pipeline is pipe and done.to("cpu") is done
    with pytest.raises(AttributeError, match="no_such_part"):
        _ = done.no_such_part


def test_adapters_act_where_a_prompt_concerns_the_concept():
    done = unlearn.erase(pipe_of("sd1"), "cat", "spm", transport="tokens", **FEW)
    texts = ["a dog", "a cat"]
    apart = (drawn(done, texts) - usual(texts=texts)).abs().amax((1, 2, 3))
    assert apart[0] < 1e-4 < 1e-3 < apart[1]
    half = unlearn.erase(pipe_of("sd1").to(torch.float16), "cat", "spm", transport="tokens", **FEW)
    assert {p.dtype for p in half.subject.module.parameters()} == {torch.float16}
    assert drawn(half, texts).isfinite().all()


def test_more_can_be_erased_from_what_was_returned():
    one_by_one = unlearn.erase(unlearn.erase(pipe_of("sd1"), "cat", "sld"), "dog", "sld")
    for asked in (["cat", "dog"], [("cat", "dog")]):
        other = unlearn.erase(pipe_of("sd1"), asked, "sld")
        prompts = [[g.prompt.tolist() for g in d.subject.module["guides"]] for d in (one_by_one, other)]
        assert len(prompts[0]) == 2 and prompts[0] == prompts[1]
        assert torch.equal(drawn(one_by_one), drawn(other))
    weights = copy.deepcopy(one_by_one.unet.state_dict())
    both = unlearn.erase(one_by_one, "dog", "uce")
    assert isinstance(both, Wrapped) and len(both.subject.module["guides"]) == 2
    assert not all(torch.equal(t, weights[n]) for n, t in both.unet.state_dict().items())
    alone = unlearn.erase(pipe_of("sd1"), "dog", "uce")
    assert all(torch.equal(t, both.unet.state_dict()[n]) for n, t in alone.unet.state_dict().items())


def test_images_come_as_diffusers_gives_them():
    done = unlearn.erase(pipe_of("sd1"), "cat", SLD())
    twice = drawn(done, "a dog", num_images_per_prompt=2)
    assert twice.shape == (2, 3, SIZE, SIZE) and not torch.equal(twice[0], twice[1])
    own = drawn(done, "a dog", num_images_per_prompt=2, generator=[rng(5), rng(5)])
    assert torch.equal(own[0], own[1])
    whole = drawn(done, "a dog", generator=rng(5))
    torch.testing.assert_close(own[:1], whole, atol=1e-5, rtol=0)
    (image,) = drawn(done, "a dog", output_type="pil")
    assert image.size == (SIZE, SIZE)
    torch.manual_seed(0)
    first = drawn(done, "a dog", generator=None)
    torch.manual_seed(0)
    assert torch.equal(first, drawn(done, "a dog", generator=None))


def test_what_cannot_be_done_is_one_line():
    done = unlearn.erase(pipe_of("sd1"), "cat", "sld")
    with pytest.raises(BadValue, match=r"does not take negative_prompt; give prompt, num_inference_steps"):
        drawn(done, negative_prompt="dog")
    with pytest.raises(BadValue, match=r"output_type='latent'.*pil, np, pt"):
        drawn(done, output_type="latent")
    with pytest.raises(BadValue, match="1 generators are given for 2 images"):
        drawn(done, generator=[rng()])
    for save in (done.save_pretrained, done.push_to_hub):
        with pytest.raises(Mismatch, match="a folder would leave it out; keep it with `unlearn erase --out"):
            save("anywhere")
