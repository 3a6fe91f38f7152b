"""Positions of examples as they are written: `1:5:8`, or a file with one in each line."""

from __future__ import annotations

from pathlib import Path

from unlearn.errors import BadValue


def is_file(text: str) -> bool:
    """Whether a text is the path of a file."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def positions(value: str) -> tuple[int, ...]:
    """Reads positions, joined by `:` or from a file.

    Raises:
        BadValue: If one of them is no whole number, or there is none.

    Example:
        >>> positions("1:5:8")
        (1, 5, 8)
    """
    words = _words(Path(value)) if is_file(value) else value.split(":")
    if bad := [w for w in words if not w.isdecimal()]:
        hint = "" if is_file(value) else f"; no file is called {value!r}"
        raise BadValue(
            f"indices: {bad[0]!r} is no position; give whole numbers from 0, one in each line{hint}"
        )
    if not words:
        raise BadValue(f"indices: {value!r} holds no position, the forget set is empty")
    return tuple(int(w) for w in words)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as err:
        raise BadValue(
            f"cannot read {path} as text: {err}; give whole numbers from 0, one in each line"
        ) from err
