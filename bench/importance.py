"""Times the per-example importance against the loop with batch size 1, on the network and data of `digits`.

    python bench/importance.py [--threads 1 2] [--size 64] [--repeats 5]

Both are run in turn in one process, and the best of the repeats counts. The weights are newly drawn: neither
time nor error depends on training. Exit status 1 if it is less than three times as fast or the results differ
by more than 1e-5 of the largest value of a tensor.
"""

from __future__ import annotations

import argparse
import time

import torch

from unlearn import scenario
from unlearn.data import Handle
from unlearn.ops.importance import squared_example_gradient
from unlearn.scenario import Shelf
from unlearn.subject import HasLoss, mode

SPEED, ERROR = 3.0, 1e-5


def loop(subject: HasLoss, data: Handle) -> list[torch.Tensor]:
    """The definition: one backward pass for each example."""
    params = list(subject.module.parameters())
    total = [torch.zeros_like(p) for p in params]
    with mode(subject.module, train=False):
        for batch in data.batches(1):
            grads = torch.autograd.grad(subject.loss(batch).mean(), params)
            torch._foreach_add_(total, [g.square() for g in grads])
    return [t / len(data) for t in total]


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest difference relative to the largest value of its tensor."""
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in zip(found, wanted, strict=True))


def measure(subject: HasLoss, data: Handle, size: int, repeats: int) -> tuple[float, float, float]:
    """Best seconds of the loop and of the kernel, interleaved, and the error."""
    kinds = (lambda: loop(subject, data), lambda: squared_example_gradient(subject, data, size))
    best, results = [float("inf")] * 2, [[], []]
    for _ in range(repeats):
        for k, run in enumerate(kinds):
            started = time.perf_counter()
            results[k] = run()
            best[k] = min(best[k], time.perf_counter() - started)
    return *best, error(results[1], results[0])


def main() -> int:
    """Prints one line for each number of threads."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--size", type=int, default=64)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    recipe = scenario.parse("digits/class=3")
    material = recipe.material()
    data = Shelf(material, torch.device("cpu")).of(material.train)
    subject = recipe.subject(torch.Generator().manual_seed(0))
    good = True
    for threads in given.threads:
        torch.set_num_threads(threads)
        slow, fast, off = measure(subject, data, given.size, given.repeats)
        good &= slow >= SPEED * fast and off <= ERROR
        print(
            f"threads {threads}: {len(data)} examples, loop {slow:.3f} s, batches of {given.size} {fast:.3f} s, "
            f"{slow / fast:.2f} times as fast, largest relative difference {off:.1e}"
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
