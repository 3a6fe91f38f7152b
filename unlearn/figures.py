"""The data of a report's pictures, computed from evidence that metrics have already made."""

from __future__ import annotations

from typing import Any

from unlearn.metric import Evidence


def collect(ev: Evidence) -> dict[str, Any]:
    """Everything that is drawn, as plain JSON."""
    return {}
