"""What a check is, and how one fails: with a sentence that says what is wrong and how to mend it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

Check = Callable[[], None]
Named = Iterator[tuple[str, Check]]


def demand(holds: bool, sentence: str) -> None:
    """Fails a check unless a condition holds; unlike `assert` it also works under `python -O`.

    Raises:
        AssertionError: With the sentence.
    """
    if not holds:
        raise AssertionError(sentence)


def run_all(checks: Named, owner: str) -> None:
    """Runs every check and reports all failures together.

    Raises:
        AssertionError: With one line for each distinct failure, naming the checks that saw it.
    """
    failed: dict[str, list[str]] = {}
    for name, check in checks:
        try:
            check()
        except AssertionError as err:
            failed.setdefault(str(err), []).append(name)
    lines = [f"{', '.join(names)}: {sentence}" for sentence, names in failed.items()]
    demand(not failed, "\n".join([f"{owner} fails {sum(map(len, failed.values()))} checks", *lines]))


def guarded(check: Check, what: str) -> Check:
    """A check that also fails, with a sentence, where the plugin breaks.

    Args:
        check: The check.
        what: The plugin, and what it is checked on.
    """

    def run() -> None:
        try:
            check()
        except AssertionError:
            raise
        except Exception as err:
            raise AssertionError(f"{what} breaks: {type(err).__name__}: {err}") from err

    return run


def global_state() -> tuple[bytes, str, str]:
    """State of the global generators of torch, NumPy and Python, to be compared."""
    array = np.random.get_state()  # noqa: NPY002 - reads it, to see whether others drew from it
    return torch.random.get_rng_state().numpy().tobytes(), repr(array), repr(random.getstate())
