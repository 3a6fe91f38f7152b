"""What a verdict is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forgotten", "partly", "unclear", "over", "visible", "not", "nothing", "destroyed", "unknown"]
WORDS: dict[Kind, str] = {
    "forgotten": "Forgotten and kept",
    "partly": "Forgotten, but at a price",
    "unclear": "Too close to call",
    "over": "Over-forgotten",
    "visible": "Still visible to the attack",
    "not": "Not forgotten",
    "nothing": "Nothing happened",
    "destroyed": "Destroyed",
    "unknown": "Cannot tell",
}
"""The verdict of each kind in a few words, where a module of rules has no others."""


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
