"""One measured number with everything needed to read it: aim, reference, floor, interval."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

LOST = "not finite: "
"""What the note of a score begins with whose numbers were not all finite; their names follow."""


class Aim(StrEnum):
    """What a good value is: large, small, or the one the oracle has."""

    UP = "up"
    DOWN = "down"
    MATCH = "match"

    @property
    def sign(self) -> str:
        """A mark for tables."""
        return {"up": "↑", "down": "↓", "match": "= oracle"}[self.value]


class Score(BaseModel):
    """A value of the unlearned model, beside those of the original and of the oracle.

    None stands for what is not known: without an oracle there is no reference and no gap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Metric and set, such as accuracy/forget")
    metric: str = Field(description="Registered name of the metric")
    variant: str = Field("", description="Which of the definitions in use; nothing for the default")
    value: float | None = Field(description="Of the unlearned model")
    aim: Aim = Field(description="What a good value is")
    original: float | None = Field(None, description="Of the model before unlearning")
    reference: float | None = Field(None, description="Of the oracle, retrained without the forget set")
    floor: float | None = Field(None, description="Distance between two oracles, where there are two")
    low: float | None = Field(None, description="Lower end of the interval")
    high: float | None = Field(None, description="Upper end of the interval")
    interval: str = Field(
        "",
        description="How the interval was made, such as wilson 95 %; nothing for what is no sample, such as a cost",
    )
    unit: str = Field("", description="Unit; nothing for a share or a pure number")
    n: int | None = Field(None, description="Examples measured")
    note: str = Field("", description="What limits the number, in one sentence")
    powerless: bool = Field(
        False, description="Whether it is of an attack that does not tell the original from the oracle"
    )
    headline: bool = Field(False, description="Whether it belongs in the first table")

    @property
    def diverged(self) -> bool:
        """Whether the unlearned model's value was there and was no finite number."""
        lost = self.note.partition(";")[0].removeprefix(LOST).split(", ")
        return self.value is None and self.note.startswith(LOST) and "value" in lost

    @property
    def gap(self) -> float | None:
        """Distance of the value from the oracle's, or None without one."""
        if self.value is None or self.reference is None:
            return None
        return abs(self.value - self.reference)
