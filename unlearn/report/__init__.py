"""What a run leaves behind: recipe, scores, costs, pictures as data, environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn.errors import BadData
from unlearn.score import Score
from unlearn.store import replacing

SCHEMA = 1


class Costs(BaseModel):
    """What the unlearning call cost; statistics that were computed for it are included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(description="Wall time of the unlearning call")
    peak_bytes: int = Field(description="Peak memory above what was in use before the call")
    read: dict[str, int] = Field(description="Examples read of each set that was lent")
    changed: float = Field(description="Share of the parameters whose value changed, 0 to 1")
    original_seconds: float | None = Field(
        None, description="Training time of the original, if we trained it"
    )
    oracle_seconds: float | None = Field(None, description="Training time of the oracle, if there is one")
    pool_seconds: float | None = Field(
        None, description="Training time of the models that the method was lent, if it was"
    )

    @property
    def charged(self) -> float:
        """Seconds of the call and of training the models that it was lent."""
        return self.seconds + (self.pool_seconds or 0.0)


class Report(BaseModel):
    """One method on one trial."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(SCHEMA, description="Version of this layout")
    id: str = Field(description="Address in the store")
    recipe: dict[str, Any] = Field(description="Everything needed to make this report again")
    request: dict[str, Any] = Field(description="What was forgotten: text, kind, sizes of the sets, classes")
    scores: tuple[Score, ...] = Field(description="Every measured number")
    costs: Costs
    weights: dict[str, str] = Field(description="SHA-256 of the original's, unlearned and oracle's weights")
    figures: dict[str, Any] = Field(default_factory=dict, description="Data of the pictures")
    log: dict[str, list[float | None]] = Field(
        default_factory=dict, description="Scalars that the method noted"
    )
    notes: tuple[str, ...] = Field((), description="Limits of this run, in sentences")
    policy: dict[str, Any] = Field(
        default_factory=dict,
        description="Name, hash and text of a policy, and what the scores show of each criterion",
    )
    plan: dict[str, float] = Field(
        default_factory=dict, description="Seconds predicted for the whole run, and seconds that it took"
    )
    environment: dict[str, Any] = Field(description="Versions, device, commit")
    created: str = Field(description="UTC time, ISO 8601")

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return str(self.recipe["method"]["name"])

    @property
    def scenario(self) -> str:
        """The scenario and request, as written on the command line."""
        return str(self.recipe["scenario"]["text"])

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of training, of the forget draw and of the method."""
        return dict(self.recipe["seeds"])

    def score(self, name: str) -> Score | None:
        """The score of this name, or None."""
        return next((s for s in self.scores if s.name == name), None)

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        with replacing(path) as draft:
            draft.write_text(json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> Report:
        """Reads the one report of a file.

        Raises:
            BadData: If the file is missing, is no report, has another layout, or holds several.
        """
        found = cls.load_all(path)
        if len(found) != 1:
            raise BadData(f"{path} holds {len(found)} reports; give a file with one of them")
        return found[0]

    @classmethod
    def load_all(cls, path: Path) -> list[Report]:
        """Reads a file with a report, or with a list of them as `unlearn run --json` prints it.

        Raises:
            BadData: If the file is missing, is no report, or has another layout.
        """
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as err:
            raise BadData(f"cannot read a report from {path}: {err}") from err
        return [cls._read(d, path) for d in (data if isinstance(data, list) else [data])]

    @classmethod
    def _read(cls, data: Any, path: Path) -> Report:
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA:
            raise BadData(
                f"{path} is no report of schema {SCHEMA} (it says {version!r}); make it again with `unlearn run`"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as err:
            where = ".".join(map(str, err.errors()[0]["loc"]))
            raise BadData(f"{path} is no valid report: {where}: {err.errors()[0]['msg']}") from err


def schema() -> dict[str, Any]:
    """JSON schema of a report, with its version as the id."""
    return {"$id": f"unlearn-report-{SCHEMA}", **Report.model_json_schema()}
