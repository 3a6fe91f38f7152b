"""What the evidence costs: statistics of many models, an exact attack beside the SVC, pools, and the fast suite.

    python bench/evidence.py statistics
    python bench/evidence.py threshold
    python bench/evidence.py pool --models 32
    python bench/evidence.py suite
    python bench/evidence.py plan

Every figure is printed beside what it is compared with, from one run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from unlearn import api, crew, crowds
from unlearn.ops.ensembles import epsilon, klom, klom_gauss
from unlearn.ops.membership import svc_outsiders
from unlearn.ops.shadows import lira, lira_offline, losses, probabilities, rmia
from unlearn.ops.threshold import auc, best_rule
from unlearn.pool import Pool
from unlearn.scenario import Seeds, parse
from unlearn.store import Store

CPU = torch.device("cpu")


def timed(work):
    """Seconds of a call, and what it returned."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def statistics(_):
    """KLoM, epsilon, LiRA, RMIA and LOSS on 5,000 examples and 64 models."""
    rng = torch.Generator().manual_seed(0)
    n, m = 5000, 64
    inside = torch.rand(m, n, generator=rng).argsort(0) < m // 2
    pool = (torch.randn(m, n, generator=rng) + 1.5 * inside).float()
    target, other = torch.randn(n, generator=rng), torch.randn(m, n, generator=rng)
    out = torch.where(inside, 0, probabilities(pool)).sum(0) / (~inside).sum(0)
    p = probabilities(target)
    work = {
        "KLoM, binned": lambda: klom(pool, other), "KLoM, normal": lambda: klom_gauss(pool, other),
        "epsilon, one threshold": lambda: epsilon(pool, other), "LiRA, online": lambda: lira(target, pool, inside),
        "LiRA, offline": lambda: lira_offline(target, pool, inside), "RMIA": lambda: rmia(p, out, p, out),
        "LOSS": lambda: auc((-losses(target)).numpy()[: n // 2], (-losses(target)).numpy()[n // 2 :]),
    }  # fmt: skip
    total = 0.0
    for name, call in work.items():
        call()
        seconds, _found = timed(call)
        total += seconds
        print(f"{name}: {seconds:.3f} s")
    print(f"together: {total:.2f} s for {n:,} examples and {m} models (asked: under 2 s)")


def threshold(args):
    """The exact threshold beside the support-vector classifier that it replaces."""
    rng = np.random.default_rng(0)
    half = args.examples // 2
    members, others = rng.normal(0.5, 1, half), rng.normal(0, 1, half)
    exact = min(timed(lambda: best_rule(members, others))[0] for _ in range(5))
    theirs, _found = timed(lambda: svc_outsiders(members[:, None], others[:, None], members[:100, None]))
    print(
        f"{args.examples:,} examples: exact {1000 * exact:.2f} ms, SVC {theirs:.2f} s, ratio {theirs / exact:,.0f} (asked: 1,000)"
    )


def pool(args):
    """A pool of digits networks, one after another in the ordinary way, and in each other way."""
    found, seconds = None, {}
    for way in ("alone", "side-by-side", "processes"):
        with tempfile.TemporaryDirectory() as folder:
            made = Pool(parse("digits/class=3"), Store(Path(folder)), CPU)
            n = len(made.material.train.rows)
            everything = torch.ones(n, dtype=torch.bool)
            jobs = crowds.jobs("half", args.models, ~everything, everything)
            if found is None:
                found = crew.measured(made, jobs)
            seconds[way], _made = timed(lambda p=made, j=jobs, w=way: crew.train_all(p, j, "half-in", w))
            print(f"{way}: {seconds[way]:.1f} s for {args.models} models, predicted {found.get(way, float('nan')):.1f} s, "
                  f"{seconds['alone'] / seconds[way]:.2f} times as fast as one after another", flush=True)  # fmt: skip
    chosen = min(found, key=found.get)
    print(f"chosen by the measurement: {chosen}, {seconds['alone'] / seconds[chosen]:.2f} times (asked: 1.5); "
          f"{crew.cores()} cores, torch with {torch.get_num_threads()} threads")  # fmt: skip


def suite(_):
    """`--suite fast` beside `--suite basic`, with a process each, as a user waits for it."""
    with tempfile.TemporaryDirectory() as folder:
        cold, _found = timed(lambda: _run("ssd", "fast", folder))
        print(f"fast, empty store: {cold:.1f} s (asked: 35 s)")
    with tempfile.TemporaryDirectory() as folder:
        _run("none", "basic", folder)
        basic, _found = timed(lambda: _run("ssd", "basic", folder))
        fast, _found = timed(lambda: _run("ssd", "fast", folder))
        print(
            f"oracle in the store: basic {basic:.1f} s, then fast {fast:.1f} s, which adds a shadow model (asked: 15 s more)"
        )


def _run(method, name, store):
    command = [sys.executable, "-m", "unlearn", "run", method, "--suite", name, "--store", store, "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def plan(_):
    """Predicted beside actual seconds on three scenarios."""
    asked = (
        ("salun", "digits/class=3", "fast"),
        ("finetune", "digits/random=0.1", "standard"),
        ("ssd", "digits/noisy,noise=0.1", "standard"),
    )
    for name, text, what in asked:
        with tempfile.TemporaryDirectory() as folder:
            on, built = api.bench(Path(folder), "cpu"), [api.build_method(name)]
            said = api.plan(on, built, parse(text), [Seeds()], what).seconds
            took, _found = timed(
                lambda o=on, b=built, t=text, w=what: api.sweep(o, b, parse(t), [Seeds()], w)
            )
            print(
                f"{name} on {text}, {what}: predicted {said:.0f} s, took {took:.0f} s, ratio {said / took:.2f} (asked: 0.5 to 2)",
                flush=True,
            )


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["statistics", "threshold", "pool", "suite", "plan"])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=32)
    args = parser.parse_args()
    {"statistics": statistics, "threshold": threshold, "pool": pool, "suite": suite, "plan": plan}[args.what](
        args
    )


if __name__ == "__main__":
    main()
