"""Time, examples read and memory of every classification method, from one cached original at their defaults.

    python bench/methods.py
    python bench/methods.py salun ssd --scenario digits/random=0.1 --device cuda

What a method needs beside the original (class statistics, pools) is made before and timed on its own. A method that
refuses the request is listed with its reason. Peak memory is what the call added: allocated on a GPU, resident on a CPU.
"""

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unlearn import api
from unlearn.errors import UnlearnError
from unlearn.pool import Pool
from unlearn.registry import fitting, methods
from unlearn.scenario import Seeds, parse

ASKED = 240.0
"""Seconds that all methods together may take on two cores."""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--scenario", default="digits/class=3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--store", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, api.bench(args.store or Path(folder), args.device))


def measure(args, on):
    """Runs each method once in a store that has the original, and prints the table."""
    pool = Pool(parse(args.scenario), on.store, on.device)
    names = args.methods or [n for n in fitting("classifier") if n not in ("none", "given")]
    started = time.perf_counter()
    once(on, pool, "none")
    print(f"original: {time.perf_counter() - started:.1f} s")
    table, total = Table("method", "seconds", "call", "examples read", "peak MB", title=args.scenario), 0.0
    for name in sorted(names):
        started = time.perf_counter()
        try:
            report = once(on, pool, name)
        except UnlearnError as err:
            table.add_row(name, "–", "–", str(err)[:70], "–")
            continue
        whole = time.perf_counter() - started
        total += whole
        read = ", ".join(f"{n} {k:,}" for n, k in report.costs.read.items() if k)
        peak = report.costs.peak_bytes
        table.add_row(
            name,
            f"{whole:.1f}",
            f"{report.costs.seconds:.1f}",
            read,
            "–" if peak is None else f"{peak / 1e6:.0f}",
        )
    Console(width=110).print(table)
    print(f"{len(names)} methods: {total:.0f} s (asked: at most {ASKED:.0f} s on two cores), {on.device}")


def once(on, pool, name):
    ((report, _),) = on.run(pool, methods.get(name)(), [], Seeds(0, 0, 0), 0)
    return report


if __name__ == "__main__":
    main()
