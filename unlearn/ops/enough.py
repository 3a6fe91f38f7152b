"""How many models a statistic needs."""

from __future__ import annotations

from unlearn.errors import BadValue


def enough(what: str, least: int, **counts: int) -> None:
    """Refuses fewer models than a statistic needs.

    Args:
        what: The statistic.
        least: Models that it needs on each side.
        counts: Models on each side, by name.

    Raises:
        BadValue: With the first side that has too few.

    Example:
        >>> enough("KLoM", 2, unlearned=8, oracles=8)
    """
    for side, n in counts.items():
        if n < least:
            raise BadValue(
                f"{what} needs at least {least} models on each side, got {n} {side.replace('_', ' ')}; train more, or choose another metric"
            )
