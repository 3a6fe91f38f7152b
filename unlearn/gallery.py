"""What a concept erasure is judged by: prompts to draw, and judges that look at the drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Judge = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Prompts over the concepts of some axes, such as objects and styles, and a judge for each axis.

    Attributes:
        captions: The N prompts.
        asked: Concept id of each prompt on each axis, with shape (N,).
        names: Names of the K concepts of each axis, by id.
        judges: Of each axis: from images (B, 3, H, W) between 0 and 1 to logits (B, K + 1); the last class is
            an image that shows none of the concepts.
        axis: Axis of the concept to be erased.
        target: Its id there.
    """

    captions: tuple[str, ...]
    asked: Mapping[str, Tensor]
    names: Mapping[str, tuple[str, ...]]
    judges: Mapping[str, Judge]
    axis: str
    target: int

    @property
    def concept(self) -> str:
        """Name of the concept to be erased."""
        return self.names[self.axis][self.target]
