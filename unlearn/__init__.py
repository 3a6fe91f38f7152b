"""Machine unlearning and concept erasure: forget on request, and prove it."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "run": "unlearn.api",
    "erase": "unlearn.api",
    "Classifier": "unlearn.subjects.classifier",
    "Method": "unlearn.method",
    "Metric": "unlearn.metric",
    "Report": "unlearn.report",
    "Split": "unlearn.data",
    "Run": "unlearn.runtime",
    "Store": "unlearn.store",
    "knob": "unlearn.knobs",
    "metrics": "unlearn.registry",
    "scenarios": "unlearn.registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
