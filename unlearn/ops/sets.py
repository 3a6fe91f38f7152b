"""Which of the evidence's sets a metric looks at."""

from __future__ import annotations

from unlearn.metric import Evidence


def scored(ev: Evidence) -> list[str]:
    """The sets on which a level is reported; where classes or a range are removed, held-out ones are told apart."""
    names = ["forget", "retain", *(["test_forget", "test_retain"] if ev.parted else ["test"])]
    return [name for name in names if len(ev.y(name))]


def kept_test(ev: Evidence) -> str:
    """The held-out examples on which a good model stays good: of the classes or targets that are kept."""
    return "test_retain" if ev.parted else "test"


def like_retain(ev: Evidence) -> str:
    """The held-out examples that are distributed as the retain set, with labels as wrong as there."""
    if ev.parted:
        return "test_retain"
    return "audit" if ev.request == "random" else "test"


def asked(ev: Evidence) -> tuple[str, str]:
    """The examples that this request is about, and those that are kept: held out where it removes classes, else not.

    Classes that earlier requests removed are neither.
    """
    if "test_now" in ev.views:
        return "test_now", "test_retain"
    removes = bool(ev.removed) and "test_earlier" not in ev.views
    return ("test_forget", "test_retain") if removes else ("forget", "retain")
