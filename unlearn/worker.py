"""A process that trains models of one scenario into a store, one for each line that it reads; see `unlearn.crew`.

The first line is the setting, every other one a model, all as JSON; a line that says what became of each is the answer.
Lines before it say how much more of the model is done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from unlearn.errors import UnlearnError
from unlearn.ops import hub
from unlearn.pool import Pool
from unlearn.registry import load_file
from unlearn.runtime import Part
from unlearn.scenario import from_recipe
from unlearn.store import Store

Say = Callable[[dict[str, Any]], None]


class Told:
    """Progress that is said.

    Args:
        say: Says it.
    """

    def __init__(self, say: Say) -> None:
        self._say = say

    def start(self, label: str, total: int | None) -> int:
        """See `unlearn.runtime.Progress`."""
        return 0

    def advance(self, task: int, by: float = 1.0) -> None:
        """See `unlearn.runtime.Progress`."""
        self._say({"part": by})

    def stop(self, task: int) -> None:
        """See `unlearn.runtime.Progress`."""


def answer(lines: Iterable[str], say: Say) -> None:
    """Trains what the lines ask for, and says of each model at once that it is done, or what was wrong."""
    lines = iter(lines)
    setting = json.loads(next(lines))
    torch.set_num_threads(1)
    try:
        if setting["plugin"]:
            load_file(Path(setting["plugin"]))
        scenario = from_recipe(setting["scenario"])
        pool = Pool(scenario, Store(Path(setting["store"])), torch.device(setting["device"]))
        n = len(pool.material.train.rows)
        for line in lines:
            job = json.loads(line)
            keep = torch.zeros(n, dtype=torch.bool)
            keep[job["keep"]] = True
            pool.progress = part = Part(Told(say), 0)
            address = pool.trained(keep, job["seed"], job["what"]).address
            part.close()
            say({"done": address})
    except UnlearnError as err:
        say({"error": str(err)})


def main() -> None:
    """Answers standard input on standard output, and ends with it."""
    hub.quiet()
    out, sys.stdout = sys.stdout, sys.stderr  # what a user's code prints must not be taken for an answer
    answer(sys.stdin, lambda said: print(json.dumps(said), file=out, flush=True))


if __name__ == "__main__":
    main()
