"""Do nothing."""

from __future__ import annotations

from typing import ClassVar

from unlearn.data import Split
from unlearn.method import Method
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Subject


@methods.register("none")
class DoNothing(Method[Subject]):
    """Leaves the model as it is: the row that every table needs.

    References:
        None; a control.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    deterministic: ClassVar[bool] = True
    idle: ClassVar[bool] = True

    def unlearn(self, subject: Subject, data: Split, run: Run) -> Subject:
        """Returns the subject unchanged."""
        return subject
