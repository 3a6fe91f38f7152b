"""What concept erasure costs, beside the plain way of writing it.

    python bench/erasing.py embedded          # memory and steps of ESD against two copies, row by row
    python bench/erasing.py commands          # whole `unlearn erase` processes with a warm store
    python bench/erasing.py sd14              # UNet of Stable Diffusion 1.4's shape, random weights
    python bench/erasing.py sd14 --device cuda

Bytes are those of all parameters, gradients and optimiser states that are alive after a step. Times are medians.
"""

import argparse
import copy
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

from unlearn.data import Resident, Split
from unlearn.methods.esd import ESD
from unlearn.methods.uce import UCE
from unlearn.pool import Pool
from unlearn.runtime import Run, pick_device
from unlearn.scenario import Seeds, parse
from unlearn.sources import Arrays
from unlearn.store import Store

UNLEARN = str(Path(sys.executable).with_name("unlearn"))
ROUNDS = 3


def resident():
    """Bytes of every parameter, gradient and optimiser state that is alive."""
    found = gc.get_objects()
    held = [o for o in found if issubclass(type(o), nn.Parameter)]
    held += [p.grad for p in held if p.grad is not None]
    states = (o.state for o in found if issubclass(type(o), torch.optim.Optimizer))
    held += [v for state in states for s in state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in {t.data_ptr(): t for t in held}.values())


class Counting(torch.optim.Adam):
    """Adam that notes the most that was resident after a step, of the first so many."""

    left, seen = 0, 0

    def step(self, closure=None):
        super().step(closure)
        if Counting.left:
            Counting.left, Counting.seen = Counting.left - 1, max(Counting.seen, resident())


def plain(subject, prompts, iterations, batch, seed=0):
    """ESD-x as it is usually written: a second copy for the teacher, one row at a time, guidance in two passes."""
    parts = dict(subject.module.named_children())
    teacher = replace(subject, module=nn.ModuleDict({**parts, "unet": copy.deepcopy(subject.denoiser)}))
    params = chosen_params(subject)
    subject.module.requires_grad_(False)
    for p in params:
        p.requires_grad_(True)
    opt, rng = Counting(params, 5e-4), torch.Generator().manual_seed(seed)
    ddim = subject._ddim()
    for _ in range(iterations):
        for _ in range(batch):
            row = int(torch.randint(0, len(prompts), (), generator=rng))
            cond, null = prompts[row : row + 1], subject.null(1)
            until = int(torch.randint(0, subject.steps, (), generator=rng))
            z = torch.randn(1, *subject.shape, generator=rng)
            with torch.no_grad():
                for t in ddim.timesteps[:until]:
                    free, told = (teacher.predict(z, t[None], c) for c in (null, cond))
                    z = ddim.step(free + 3.0 * (told - free), t, z).prev_sample
                t = ddim.timesteps[until][None]
                free, told = (teacher.predict(z, t, c) for c in (null, cond))
            (mse_loss(subject.predict(z, t, cond), 2 * free - told) / batch).backward()
        opt.step()
        opt.zero_grad(set_to_none=True)


def chosen_params(subject):
    return [p for n, p in subject.denoiser.named_parameters() if "attn2" in n]


def counted(name, subject, split, states, iterations=1, batch=1):
    """Runs ESD-x, ours or plain; the most bytes in its first step, of the model and of what was added.

    Ours steps each tensor by itself, so that it is looked at as often.
    """
    gc.collect()
    others = resident() - sum(p.numel() * p.element_size() for p in subject.module.parameters())
    Counting.left, Counting.seen = 1 if name == "plain" else len(chosen_params(subject)), 0
    run(name, subject, split, states, iterations, batch)
    return Counting.seen - others


def run(name, subject, split, states, iterations, batch):
    """Runs ESD-x, ours or plain."""
    if name == "plain":
        plain(subject, states, iterations, batch)
        return
    adam, torch.optim.Adam = torch.optim.Adam, Counting
    try:
        ESD(iterations=iterations, batch_size=batch, pool=iterations * batch).unlearn(subject, split, Run())
    finally:
        torch.optim.Adam = adam


def say_bytes(held):
    ratio = held["ours"] / held["plain"]
    print(f"bytes: ours {held['ours']:,}, plain {held['plain']:,}, ratio {ratio:.2f} (at most 0.6)")


def embedded() -> None:
    """ESD-x of 60 iterations of 8 on the embedded pipeline, ours and plain, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Pool(parse("ink/concept=three"), Store(Path(folder)), torch.device("cpu")).trial(Seeds())
    prompts = trial.handles["concept"]
    split = Split(None, None, None, None, None, concept=prompts)
    states = trial.original.encode(next(prompts.batches(len(prompts)))).detach()
    iterations = {"ours": 60, "plain": 6}
    times = {name: [] for name in iterations}
    held = {name: counted(name, trial.original.clone(), split, states) for name in iterations}
    for _ in range(ROUNDS):
        for name, n in iterations.items():
            subject = trial.original.clone()
            started = time.perf_counter()
            run(name, subject, split, states, n, 8)
            times[name].append((time.perf_counter() - started) / n)
    ours, theirs = (1 / statistics.median(times[n]) for n in ("ours", "plain"))
    print(f"steps per second: ours {ours:.2f}, plain {theirs:.2f}, ratio {ours / theirs:.1f}x (at least 2x)")
    say_bytes(held)


def commands() -> None:
    """Whole processes, with the drawings of original and oracle in the store."""
    with tempfile.TemporaryDirectory() as store:
        for method in ("esd", "uce"):
            seconds = []
            for k in range(ROUNDS + 1):
                started = time.perf_counter()
                subprocess.run([UNLEARN, "erase", "three", "--method", method, "--store", store, "--fresh"],
                               check=True, capture_output=True)  # fmt: skip
                if k:
                    seconds.append(time.perf_counter() - started)
            said = ", ".join(f"{s:.1f}" for s in seconds)
            print(
                f"unlearn erase three --method {method}, warm store: {statistics.median(seconds):.1f} s ({said})"
            )


def stable_diffusion(device):
    """A subject with the UNet of Stable Diffusion 1.4 in shape, its weights random."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from unlearn.subjects.text_to_image import TextToImage, components

    kinds = ("CrossAttnDownBlock2D",) * 3
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2, down_block_types=(*kinds, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, eos_token_id=49407,
    ))  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              clip_sample=False, set_alpha_to_one=False, steps_offset=1)  # fmt: skip
    empty = torch.tensor([49406, *[49407] * 76])
    module = components(unet, text).to(device).eval()
    return TextToImage(module, scheduler, empty, empty, (4, 64, 64))


def told(n, seed):
    """n prompts of one word each."""
    ids = torch.full((n, 77), 49407)
    ids[:, 0] = 49406
    ids[:, 1] = torch.randint(1000, 40000, (n,), generator=torch.Generator().manual_seed(seed))
    return Resident(Arrays(torch.zeros(n, 0), ids))


def sd14(device: torch.device) -> None:
    """UCE of 100 concepts; on a GPU also 200 iterations of ESD-x at 512 px from a pool of 200 latents."""
    subject = stable_diffusion(device)
    for name, part in subject.parts().items():
        print(f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters")
    empty = Resident(Arrays(torch.zeros(100, 0), subject.empty.expand(100, -1)))
    split = Split(None, None, None, None, None, told(100, 0), empty, told(200, 1))
    on = Run(device=device)
    started = time.perf_counter()
    UCE().unlearn(subject, split, on)
    print(f"UCE, 100 concepts, 200 held: {time.perf_counter() - started:.1f} s (at most 10 s)")
    small = replace(subject, shape=(4, 8, 8), steps=2)  # weights are as many whatever the image
    with torch.no_grad():
        states = small.encode(next(split.concept.batches(2)))
    say_bytes({name: counted(name, small, split, states) for name in ("ours", "plain")})
    if device.type != "cuda":
        return
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    ESD(iterations=200, batch_size=1, pool=200).unlearn(subject, split, on)
    torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - started, torch.cuda.max_memory_allocated() / 2**30
    print(
        f"ESD-x, 200 iterations at 512 px: {seconds:.0f} s (at most 60 s), peak {peak:.1f} GiB (at most 8 GB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["embedded", "commands", "sd14"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.what == "sd14":
        sd14(pick_device(args.device))
    else:
        {"embedded": embedded, "commands": commands}[args.what]()


if __name__ == "__main__":
    main()
