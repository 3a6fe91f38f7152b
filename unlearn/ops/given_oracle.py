"""Oracles that a user retrained: weights of the original's architecture."""

from __future__ import annotations

from pathlib import Path

from unlearn.errors import BadValue
from unlearn.ops.weights import load_into
from unlearn.subject import Subject, Trains

GIVEN = "The oracle was given; that it never saw what is forgotten is the word of whoever trained it."


def given_oracle(original: Subject, path: str) -> Subject | None:
    """The original's architecture with the weights of a file, or None if there is none.

    Args:
        original: It stays as it is.
        path: Of the weights; empty for none.

    Raises:
        BadValue: If there is a recipe, by which the oracle is trained.
        BadWeights: If the weights cannot be read, or are those of another architecture.
    """
    if not path:
        return None
    if isinstance(original, Trains) and original.recipe is not None:
        raise BadValue(
            f"retrained={path}: the oracle is trained here, because there is a recipe; leave out one of them"
        )
    made = original.clone()
    load_into(made.module, Path(path).expanduser())
    return made
