"""Trains what the package ships for concept erasure: two judges, the pipeline, and its oracles.

    python bench/train_ink.py judges
    python bench/train_ink.py pipeline
    python bench/train_ink.py pipeline --without three
    python bench/train_ink.py pipeline --without chalk

Real digit scans of scikit-learn, seven tenths to train on and three tenths held out, are drawn in five styles.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from unlearn.ops.ink import BOTH, OBJECT, OBJECTS, STYLE, STYLES, caption, judge, render, scans

OUT = Path(__file__).parents[1] / "unlearn" / "assets" / "ink"


def moved(x, rng):
    """Images (N, 3, H, W) shifted by up to a pixel, edges repeated."""
    n, _, h, w = x.shape
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    out = torch.empty_like(x)
    d = torch.randint(0, 3, (n, 2), generator=rng)
    for i in range(3):
        for j in range(3):
            rows = (d[:, 0] == i) & (d[:, 1] == j)
            out[rows] = padded[rows, :, i : i + h, j : j + w]
    return out


# ---- the pipeline


def tokenizer(folder):
    """A byte-level BPE tokenizer in CLIP's layout, trained on the captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    texts = [caption(t, o, s) for t in (*BOTH, *OBJECT, *STYLE) for o in OBJECTS for s in STYLES]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False))  # fmt: skip
    found = json.loads(learner.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in found["merges"]]
    words = [*alphabet, *(f"{c}</w>" for c in alphabet)]
    words += [w for w in ("".join(m) for m in merges) if w not in words]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(dict.fromkeys(words))}, merges=merges,
                         model_max_length=12)  # fmt: skip


def autoencoder(x, rng, steps):
    """A small KL autoencoder: (3, 16, 16) to (4, 8, 8)."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8,
        sample_size=16, mid_block_add_attention=False,
    )  # fmt: skip
    opt = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, steps)
    for step in range(steps):
        batch = moved(x[torch.randint(0, len(x), (64,), generator=rng)], rng) * 2 - 1
        seen = vae.encode(batch).latent_dist
        back = vae.decode(seen.mean + seen.std * torch.randn(seen.mean.shape, generator=rng)).sample
        loss = mse_loss(back, batch) + 1e-5 * seen.kl().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        plan.step()
        if step % 500 == 0:
            print(f"autoencoder {step}: {loss.item():.5f}", flush=True)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        z = vae.encode(x[torch.randint(0, len(x), (512,), generator=rng)] * 2 - 1).latent_dist.mean
        back = vae.decode(z).sample
    vae.register_to_config(scaling_factor=round(float(1 / z.std()), 4))
    return vae


def parts(vocabulary, eos):
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=12, eos_token_id=eos, pad_token_id=eos, bos_token_id=eos - 1, projection_dim=64,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(40, 72), norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64, attention_head_dim=2,
    )  # fmt: skip
    noise = DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                          clip_sample=False, set_alpha_to_one=False, steps_offset=1)  # fmt: skip
    return text, unet, noise


def captions(y, s, rng):
    """A caption of each image: object and style, either, or none."""
    made = []
    for o, k in zip(y.tolist(), s.tolist(), strict=True):
        kind = float(torch.rand((), generator=rng))
        pool = BOTH if kind < 0.7 else OBJECT if kind < 0.8 else STYLE if kind < 0.9 else ("",)
        made.append(caption(pool[int(torch.randint(0, len(pool), (), generator=rng))], OBJECTS[o], STYLES[k]))
    return made


def pipeline(args):
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    (x, y), _ = scans()
    n = len(STYLES)
    y, s = y.repeat_interleave(n), torch.arange(n).repeat(len(x))
    images = render(x.repeat_interleave(n, 0), s, rng)
    keep = torch.ones(len(y), dtype=torch.bool)
    if args.without in OBJECTS:
        keep = y != OBJECTS.index(args.without)
    elif args.without:
        keep = s != STYLES.index(args.without)
    images, y, s = images[keep], y[keep], s[keep]
    started = time.monotonic()
    words = tokenizer(args.out)
    vae = autoencoder(images, rng, args.vae_steps)
    with torch.no_grad():
        copies = [vae.encode(moved(images, rng) * 2 - 1).latent_dist.mean for _ in range(4)]
        z = torch.stack(copies) * vae.config.scaling_factor
    text, unet, noise = parts(len(words), words.eos_token_id)
    print(f"{sum(p.numel() for p in unet.parameters()):,} + {sum(p.numel() for p in text.parameters()):,} + "
          f"{sum(p.numel() for p in vae.parameters()):,} parameters; {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    both = nn.ModuleDict({"unet": unet, "text": text})
    mean = copy.deepcopy(both).requires_grad_(False)
    opt = torch.optim.AdamW(both.parameters(), lr=args.lr, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, args.steps, pct_start=0.1)
    for step in range(args.steps):
        rows = torch.randint(0, len(y), (args.batch,), generator=rng)
        copy_ = torch.randint(0, len(z), (args.batch,), generator=rng)
        ids = words(captions(y[rows], s[rows], rng), padding="max_length", return_tensors="pt").input_ids
        t = torch.randint(0, 1000, (args.batch,), generator=rng)
        e = torch.randn(args.batch, 4, 8, 8, generator=rng)
        out = unet(noise.add_noise(z[copy_, rows], e, t), t, text(ids).last_hidden_state).sample
        loss = mse_loss(out, e)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        opt.step()
        plan.step()
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, b in zip(mean.parameters(), both.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        if step % 200 == 0:
            print(f"{step}: {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)
        if args.save_every and step and step % args.save_every == 0:
            save(args.out, words, vae, mean["text"], mean["unet"], noise)
    save(args.out, words, vae, mean["text"], mean["unet"], noise)
    print(
        f"{time.monotonic() - started:.0f} s in all, {time.process_time():.0f} s of processor time",
        flush=True,
    )


def rounded(module):
    """A copy with the values of half precision in single precision."""
    return copy.deepcopy(module).half().float()


def save(out, words, vae, text, unet, noise):
    from diffusers import StableDiffusionPipeline

    # plain from_pretrained widens diffusers' parts to single precision and leaves the text encoder as it is
    half = {
        "vae": copy.deepcopy(vae).half(),
        "unet": copy.deepcopy(unet).half(),
        "text_encoder": rounded(text),
    }
    StableDiffusionPipeline(
        **half, tokenizer=words, scheduler=noise, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(out)  # fmt: skip


# ---- the judges


def nothing(x, rng):
    """Images (N, 3, 16, 16) that show no digit in no style: noise, shuffled pixels, blank colours."""
    n = len(x) // 4
    noise = torch.rand(n, 3, 16, 16, generator=rng)
    order = torch.rand(n, 256, generator=rng).argsort(1)
    shuffled = x[:n].flatten(2).gather(2, order[:, None].expand(-1, 3, -1)).view(n, 3, 16, 16)
    blank = torch.rand(n, 3, 1, 1, generator=rng) + 0.05 * torch.randn(n, 3, 16, 16, generator=rng)
    smooth = nn.functional.interpolate(torch.rand(n, 3, 4, 4, generator=rng), (16, 16), mode="bilinear")
    return torch.cat([noise, shuffled, blank.clamp(0, 1), smooth])


def judges(args):
    (x, y), (hx, hy) = scans()
    for name, classes in (("object", len(OBJECTS)), ("style", len(STYLES))):
        torch.manual_seed(args.seed)
        rng = torch.Generator().manual_seed(args.seed)
        net = judge(classes)
        steps = 1500 if name == "object" else 500
        opt = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
        plan = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, steps)
        for _ in range(steps):
            rows = torch.randint(0, len(x), (128,), generator=rng)
            s = torch.randint(0, len(STYLES), (128,), generator=rng)
            images = moved(render(x[rows], s, rng), rng)
            images = (
                images + 0.06 * torch.rand((), generator=rng) * torch.randn(images.shape, generator=rng)
            ).clamp(0, 1)
            bad = nothing(images[:64], rng)
            target = torch.cat([y[rows] if name == "object" else s, torch.full((len(bad),), classes)])
            loss = cross_entropy(net(torch.cat([images, bad]) * 2 - 1), target, label_smoothing=0.05)
            opt.zero_grad()
            loss.backward()
            opt.step()
            plan.step()
        net.eval()
        rng = torch.Generator().manual_seed(args.seed + 1)
        right = []
        with torch.no_grad():
            for k in range(len(STYLES)):
                s = torch.full((len(hx),), k)
                right.append(
                    (net(render(hx, s, rng) * 2 - 1).argmax(1) == (hy if name == "object" else s))
                    .float()
                    .mean()
                )
            none = (
                (
                    net(nothing(render(hx, torch.zeros(len(hx), dtype=torch.long), rng), rng) * 2 - 1).argmax(
                        1
                    )
                    == classes
                )
                .float()
                .mean()
            )
        print(
            f"{name}: {[f'{float(r):.4f}' for r in right]} on held-out images by style, nothing {float(none):.3f}"
        )
        args.out.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), args.out / f"{name}-judge.safetensors")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["judges", "pipeline"])
    parser.add_argument("--without", default="", choices=["", *OBJECTS, *STYLES])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--vae-steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=0)
    args = parser.parse_args()
    {"judges": judges, "pipeline": pipeline}[args.what](args)


if __name__ == "__main__":
    main()
