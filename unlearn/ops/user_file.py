"""A user's own Python file: what it defines, loaded once and known by its hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unlearn.errors import BadValue
from unlearn.provenance import file_digest
from unlearn.registry import load_file, unknown


class UserFile:
    """A Python file and one of its functions, as in `mine.py:build`.

    What the file imports from beside it does not enter its hash: keep everything in the one file.

    Args:
        text: `FILE.py:FUNCTION`; the function is `build` where it is not named.

    Attributes:
        path: The file.
        hash: SHA-256 of its bytes.

    Raises:
        BadValue: If the file is missing.
        UnlearnError: If it cannot be imported.
    """

    def __init__(self, text: str) -> None:
        head, _, function = text.rpartition(":")
        name, self.function = (head, function) if head.endswith(".py") else (text, "build")
        self.path = Path(name).expanduser()
        if not self.path.is_file():
            raise BadValue(f"no file {str(self.path)!r}; give FILE.py:FUNCTION, as in mine.py:build")
        self.hash = file_digest(self.path)
        self._module = load_file(self.path)

    def call(self) -> Any:
        """What the function returns.

        Raises:
            UnknownName: If the file has no such function.
            BadValue: If the function raises.
        """
        function = self.get(self.function)
        if not callable(function):
            names = [n for n, v in vars(self._module).items() if callable(v) and not n.startswith("_")]
            raise unknown(f"function in {self.path.name}", self.function, names)
        try:
            return function()
        except Exception as err:
            raise BadValue(
                f"{self.path.name}: {self.function}() raised {type(err).__name__}: {_first_line(err)}"
            ) from err

    def get(self, name: str) -> Any:
        """A name that the file defines, or None."""
        return vars(self._module).get(name)

    def function_named(self, name: str) -> Callable[..., Any] | None:
        """A function that the file may define, or None.

        Raises:
            BadValue: If the name stands for something that cannot be called.
        """
        found = self.get(name)
        if found is not None and not callable(found):
            raise BadValue(f"{self.path.name}: {name} must be a function, it is {type(found).__name__}")
        return found  # type: ignore[no-any-return]


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [""])[0]
