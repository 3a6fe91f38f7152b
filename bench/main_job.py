"""How long the first run from an empty store takes, and a second method after it.

    python bench/main_job.py

Wall time of whole processes, less that of a process which only imports torch; median of the rounds.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNLEARN = str(Path(sys.executable).with_name("unlearn"))
ROUNDS = 3


def seconds(*command):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as store:
            torch = seconds(sys.executable, "-c", "import torch")
            first = seconds(UNLEARN, "run", "salun", "--store", store) - torch
            second = seconds(UNLEARN, "run", "ssd", "--store", store) - torch
            rounds.append((torch, first, second))
    names = ("import torch alone", "run salun, empty store", "run ssd after it")
    for name, values in zip(names, zip(*rounds, strict=True), strict=True):
        print(f"{name:24} {statistics.median(values):5.1f} s   ({', '.join(f'{v:.1f}' for v in values)})")


if __name__ == "__main__":
    main()
