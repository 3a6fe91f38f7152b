"""What a verdict is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forgotten", "partly", "unclear", "over", "visible", "not", "nothing", "destroyed", "unknown"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the scores mean.

    Attributes:
        kind: What happened, in one word; it decides the colour.
        words: The verdict in a few words.
        text: The reasons, in sentences.
    """

    kind: Kind
    words: str
    text: str
