"""Trains the judge of the drawings of `digits-ddpm`: it names the digit in an 8 x 8 grey image, or sees none.

    python bench/train_digits_judge.py

Real digit scans of scikit-learn, seven tenths to train on and three tenths held out, beside images that show no digit.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, interpolate

from unlearn.ops.ink import OBJECTS, judge, scans
from unlearn.sources import random_crop

OUT = Path(__file__).parents[1] / "unlearn" / "assets" / "digits"


def nothing(x, rng):
    """Images (4N, 3, 8, 8) that show no digit: noise, shuffled pixels, blank greys, smooth blots."""
    n = len(x)
    noise = torch.rand(n, 1, 8, 8, generator=rng)
    order = torch.rand(n, 64, generator=rng).argsort(1)
    shuffled = x[:, 0].flatten(1).gather(1, order).view(n, 1, 8, 8)
    blank = torch.rand(n, 1, 1, 1, generator=rng) + 0.05 * torch.randn(n, 1, 8, 8, generator=rng)
    smooth = interpolate(torch.rand(n, 1, 3, 3, generator=rng), (8, 8), mode="bilinear")
    return torch.cat([noise, shuffled, blank, smooth]).clamp(0, 1).expand(-1, 3, -1, -1)


def trained(x, y, steps, rng):
    net = judge(len(OBJECTS))
    opt = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, steps)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (128,), generator=rng)
        images = random_crop(x[rows], 1, rng)
        grain = 0.1 * torch.rand(len(images), 1, 1, 1, generator=rng)
        images = (images + grain * torch.randn(images.shape, generator=rng)).clamp(0, 1)
        none = nothing(x[rows[:16]], rng)
        target = torch.cat([y[rows], torch.full((len(none),), len(OBJECTS))])
        loss = cross_entropy(net(torch.cat([images, none]) * 2 - 1), target, label_smoothing=0.05)
        opt.zero_grad()
        loss.backward()
        opt.step()
        plan.step()
    return net.eval()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    (x, y), (hx, hy) = ((a[:, None].expand(-1, 3, -1, -1), b) for a, b in scans())
    net = trained(x, y, args.steps, rng).half().float()  # judged as it is kept, in half precision
    with torch.no_grad():
        right = (net(hx * 2 - 1).argmax(1) == hy).double().mean()
        none = (net(nothing(hx, rng) * 2 - 1).argmax(1) == len(OBJECTS)).double().mean()
    print(
        f"right on {len(hx)} held-out scans: {float(right):.4f}; no digit in {float(none):.4f} of what shows none"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(net.half().state_dict(), args.out / "judge.safetensors")


if __name__ == "__main__":
    main()
