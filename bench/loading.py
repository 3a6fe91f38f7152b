"""One pass over a resident handle against the idiomatic torch DataLoader, on the same CIFAR-10 images.

    python bench/loading.py --data FOLDER [--threads 1 2] [--repeats 5]

The loader's data set does per image what people write: scale, normalise, crop and flip in torch. Both yield
normalised float32 batches of 128 in a new random order. Passes are interleaved, so that a busy machine hurts
both; of each contender the fastest pass counts, of the loader the better of 0 and 2 workers. Two threads need two
idle cores: where another process holds one, every parallel operation waits for it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from unlearn.data import Resident
from unlearn.ops.loaders import load
from unlearn.sources import Arrays, Pixels

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE = 128
GOALS = {"plain": 1.8, "augmented": 4.0}


class PerImage(Dataset):
    """CIFAR-10 as a torch data set: one image at a time."""

    def __init__(self, x, y, augment):
        self.x, self.y, self.augment = x, y, augment
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        image = self.x[i].float().div(255)
        if self.augment:
            image = nn.functional.pad(image, (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2,)).tolist()
            image = image[:, top : top + 32, left : left + 32]
            if torch.rand(1) < 0.5:
                image = image.flip(2)
        return (image - self.mean) / self.std, self.y[i]


def passes(x, y, augment):
    """Functions that make one pass each, by name."""
    ours = Resident(Arrays(x, y), Pixels(MEAN, STD, pad=4, flip=True))
    rng = torch.Generator().manual_seed(0)
    theirs = {
        f"loader, {w} workers": DataLoader(
            PerImage(x, y, augment), SIZE, shuffle=True, num_workers=w, persistent_workers=w > 0
        )
        for w in (0, 2)
    }
    made = {name: (lambda d=loader: sum(len(b) for b, _ in d)) for name, loader in theirs.items()}
    made["resident"] = lambda: sum(len(b) for b in ours.batches(SIZE, rng, augment=augment))
    return made


def measure(x, y, augment, repeats):
    """Seconds of the fastest pass of each contender."""
    contenders = passes(x, y, augment)
    best = dict.fromkeys(contenders, float("inf"))
    for repeat in range(repeats + 1):  # the first warms up
        for name, run in contenders.items():
            started = time.perf_counter()
            assert run() == len(y)
            if repeat:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder or hub name of CIFAR-10")
    parser.add_argument("--images", type=int, default=20_000, help="images in a pass")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    train = load(args.data).train
    rows = torch.arange(min(args.images, len(train.rows)))
    x, y = train.source.fetch(rows), train.source.y[rows]
    results = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for kind, goal in GOALS.items():
            best = measure(x, y, kind == "augmented", args.repeats)
            ours = best.pop("resident")
            ratio = min(best.values()) / ours
            results.append(
                {"threads": threads, "kind": kind, "ratio": ratio, "goal": goal, "resident": ours, **best}
            )
            shown = ", ".join(f"{n} {len(y) / s:,.0f}/s" for n, s in {"resident": ours, **best}.items())
            print(f"{threads} thread(s), {kind}: {ratio:.2f}x (goal {goal}x): {shown}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
