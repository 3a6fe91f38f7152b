"""Diabetes: a small regression that ships inside scikit-learn."""

from __future__ import annotations

from typing import ClassVar

import torch

from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.scenarios._values import Examples, Table


@scenarios.register("diabetes")
class Diabetes(Table):
    """How far diabetes went in a year, from ten measurements of 442 patients; shipped inside scikit-learn.

    Targets run from 25 to 346 points of a measure of progression, and are not well told by the inputs: an error of 45 points
    is usual.

    References:
        Efron et al., 2004, Least angle regression, arXiv:math/0406456
    """

    default_request: ClassVar[str] = "range=25:80"
    unit: ClassVar[str] = "points"
    epochs: int = knob(40, "training epochs of original and oracle", ge=1)

    def examples(self) -> Examples:
        """See `Values.examples`."""
        from sklearn.datasets import load_diabetes

        found = load_diabetes(scaled=False)
        return Examples(torch.tensor(found.data).float(), torch.tensor(found.target).float())
