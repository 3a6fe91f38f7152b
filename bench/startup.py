"""How long `unlearn --help` and `unlearn methods` take, beside importing typer and rich alone.

    python bench/startup.py

Runs the commands in turn, several times, and prints the median of each and the median of the ratios.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

UNLEARN = str(Path(sys.executable).with_name("unlearn"))
COMMANDS = {
    "import typer, rich": [sys.executable, "-c", "import typer, rich"],
    "unlearn --help": [UNLEARN, "--help"],
    "unlearn methods": [UNLEARN, "methods"],
}
ROUNDS = 15


def seconds(command):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    rounds = [{name: seconds(c) for name, c in COMMANDS.items()} for _ in range(ROUNDS + 1)][1:]
    for name in COMMANDS:
        median = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["import typer, rich"] for r in rounds)
        print(f"{name:20} {median * 1000:6.0f} ms   {ratio:.2f} x")


if __name__ == "__main__":
    main()
