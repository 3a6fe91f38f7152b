"""Tiny random pipelines of every layout, built from configurations, as plain diffusers has them."""

import copy
import functools

import torch

from unlearn.data import Batch, Resident, Split
from unlearn.ops import hub
from unlearn.sources import Arrays
from unlearn.subjects._layouts import packed
from unlearn.subjects._pipelines import Drawing, subject_of

WORDS = ("a", "an", "cat", "dog", "picture", "of", "the", "style", "monet", "van", "gogh")
TOKENS = 12  # of a prompt for CLIP
STEPS, GUIDANCE, SIZE = 3, 2.0, 16
UNETS = ("sd1", "sd2", "sdxl")
TEXTS = ["a cat", "the dog"]
TRAINED = {
    "x": {"unet": (".attn2.",), "transformer": (".add_q_proj.", ".add_k_proj.", ".add_v_proj.", ".to_add_out.")},
    "strict": {"unet": (".attn2.to_k.", ".attn2.to_v."), "transformer": (".add_k_proj.", ".add_v_proj.")},
}  # fmt: skip
LAYOUTS = ("sd1", "sd2", "sdxl", "sd3", "flux-dev", "flux-schnell")


def build(layout, **changes):
    """A pipeline whose weights are fixed by its layout; `changes` replace components."""
    with torch.random.fork_rng():
        torch.manual_seed(LAYOUTS.index(layout))
        made = MAKERS[layout](**changes)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as `from_pretrained` has it
    return made


@functools.cache
def clip_words():
    """A byte-level BPE tokenizer in CLIP's layout, with a merge for every word."""
    from transformers import CLIPTokenizer

    letters = sorted({c for w in WORDS for c in w})
    vocabulary = [*letters, *(f"{c}</w>" for c in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = ["".join(pieces[:2]), *pieces[2:]]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    ids = {w: i for i, w in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=list(dict.fromkeys(merges)), model_max_length=TOKENS)


@functools.cache
def t5_words():
    """A tokenizer of whole words, as T5's pads and ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {w: i for i, w in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip(width=16, projection=None):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = clip_words()
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=TOKENS, projection_dim=projection or width,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5():
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(t5_words()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def vae(channels=4, shift=None):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, scaling_factor=0.3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, shift_factor=shift,
        mid_block_add_attention=False,
    )  # fmt: skip


def unet(states, **more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=states,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip


def ddim(prediction="epsilon"):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    )  # fmt: skip


def stable_diffusion(prediction, **changes):
    from diffusers import StableDiffusionPipeline

    parts = {"vae": vae(), "text_encoder": clip(), "tokenizer": clip_words(), "unet": unet(16),
             "scheduler": ddim(prediction), "safety_checker": None, "feature_extractor": None}  # fmt: skip
    return StableDiffusionPipeline(**{**parts, **changes}, requires_safety_checker=False)


def sdxl(**changes):
    from diffusers import StableDiffusionXLPipeline

    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 20}  # fmt: skip
    parts = {"vae": vae(), "text_encoder": clip(16), "text_encoder_2": clip(24, 20), "tokenizer": clip_words(),
             "tokenizer_2": clip_words(), "unet": unet(40, **told), "scheduler": ddim()}  # fmt: skip
    return StableDiffusionXLPipeline(**{**parts, **changes}, add_watermarker=False)


def flow(**settings):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def sd3(**changes):
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=20,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    parts = {"transformer": net, "scheduler": flow(shift=3.0), "vae": vae(shift=0.1), "text_encoder": clip(12, 8),
             "text_encoder_2": clip(16, 12), "text_encoder_3": t5(), "tokenizer": clip_words(),
             "tokenizer_2": clip_words(), "tokenizer_3": t5_words()}  # fmt: skip
    return StableDiffusion3Pipeline(**{**parts, **changes})


def flux(distilled, **changes):
    from diffusers import FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=distilled, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = flow(shift=3.0, use_dynamic_shifting=True) if distilled else flow(shift=1.0)
    parts = {"transformer": net, "scheduler": scheduler, "vae": vae(shift=0.1), "text_encoder": clip(),
             "text_encoder_2": t5(), "tokenizer": clip_words(), "tokenizer_2": t5_words()}  # fmt: skip
    made = FluxPipeline(**{**parts, **changes})
    made.default_sample_size = 8  # a FLUX.1 transformer has no size of its own
    return made


MAKERS = {
    "sd1": functools.partial(stable_diffusion, "epsilon"),
    "sd2": functools.partial(stable_diffusion, "v_prediction"),
    "sdxl": sdxl,
    "sd3": sd3,
    "flux-dev": functools.partial(flux, True),
    "flux-schnell": functools.partial(flux, False),
}


@functools.cache
def made(layout):
    hub.quiet()
    return build(layout)


def pipe_of(layout):
    """A private pipeline of this layout."""
    found = made(layout)
    pipe = type(found)(**{n: copy.deepcopy(m) for n, m in found.components.items()})
    if layout.startswith("flux"):
        pipe.default_sample_size = found.default_sample_size
    return pipe


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


def trained(layout, train):
    """Names of the tensors that ESD may change."""
    component = "unet" if layout in UNETS else "transformer"
    names = made(layout).components[component].state_dict()
    found = {f"{component}.{n}" for n in names if any(part in f".{n}" for part in TRAINED[train][component])}
    last = ".transformer_blocks.1.attn.add_q_proj."  # of SD3's last block: what the text stream becomes is not used
    return {n for n in found if layout != "sd3" or last not in n}


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
