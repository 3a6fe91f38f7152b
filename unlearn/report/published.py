"""Published numbers, shown beside ours only where scenario, network and request are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unlearn.report import Report

SOURCE = (
    "Fan et al., 2024, SalUn, arXiv:2310.12508, table 1: CIFAR-10, ResNet-18, mean of 10 trials, in per cent"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One published row, in per cent.

    Attributes:
        method: Name in the paper.
        ua: Unlearning accuracy, 100 minus the accuracy on the forget set.
        ra: Accuracy on the retain set.
        ta: Accuracy on the test set.
        mia: Share of the forget set that the paper's attack takes for unseen.
    """

    method: str
    ua: float
    ra: float
    ta: float
    mia: float


TABLES: Mapping[float, tuple[Row, ...]] = {
    0.1: (
        Row("Retrain", 5.24, 100.0, 94.26, 12.88),
        Row("FT", 0.63, 99.88, 94.06, 2.70),
        Row("RL", 7.61, 99.67, 92.83, 37.36),
        Row("GA", 0.69, 99.50, 94.01, 1.70),
        Row("IU", 1.07, 99.20, 93.20, 2.67),
        Row("BE", 0.59, 99.42, 93.85, 7.47),
        Row("BS", 1.78, 98.29, 92.69, 8.96),
        Row("ℓ1-sparse", 4.19, 97.74, 91.59, 9.84),
        Row("SalUn", 2.85, 99.62, 93.93, 14.39),
        Row("SalUn-soft", 4.19, 99.74, 93.44, 19.49),
    ),
    0.5: (
        Row("Retrain", 7.91, 100.0, 91.72, 19.29),
        Row("FT", 0.44, 99.96, 94.23, 2.15),
        Row("RL", 4.80, 99.55, 91.31, 41.95),
        Row("GA", 0.40, 99.61, 94.34, 1.22),
        Row("IU", 3.97, 96.21, 90.00, 7.29),
        Row("BE", 3.08, 96.84, 90.41, 24.87),
        Row("BS", 9.76, 90.19, 83.71, 32.15),
        Row("ℓ1-sparse", 1.44, 99.52, 93.13, 4.76),
        Row("SalUn", 7.75, 94.28, 89.29, 16.99),
        Row("SalUn-soft", 3.41, 99.62, 91.82, 31.50),
    ),
}


def published(report: Report) -> tuple[Row, ...]:
    """The published rows of this report's setting; none where it differs in data, network or request."""
    scenario = report.recipe["scenario"]
    options, request = scenario["options"], scenario["request"]
    whole = (
        not any(options.get(k) for k in ("limit", "test_limit", "weights"))
        and options.get("normalise", "own") == "own"
        and options.get("training", "sgd") == "sgd"
        and not any(options.get(k) for k in ("noise", "confuse", "backdoor", "canaries"))
    )
    if scenario["name"] != "cifar10" or options.get("network") != "resnet18" or not whole:
        return ()
    return TABLES.get(request.get("fraction", 0.0), ()) if request["kind"] == "random" else ()
