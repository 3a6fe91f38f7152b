"""California housing: prices of 20,640 districts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from unlearn.errors import BadData
from unlearn.knobs import knob
from unlearn.registry import scenarios
from unlearn.scenarios._values import Examples, Table

COUNTS = ("total_rooms", "total_bedrooms", "population", "households")
NAMES = ("median_income", "housing_median_age", *COUNTS, "latitude", "longitude", "median_house_value")


@scenarios.register("california-housing")
class CaliforniaHousing(Table):
    """Median house price of the districts of California in the census of 1990, from eight numbers of each.

    As scikit-learn has them: income, age, rooms, bedrooms and people to a household, people, latitude, longitude; prices
    run from 0.15 to 5 hundred thousand dollars, where they were cut. The four that are counts or ratios of counts enter by
    their logarithm. `data` is a table with the columns of the census (`housing.csv`) or a folder with one; its 207
    districts without a number of bedrooms get the median ratio. Without `data`, scikit-learn fetches its own copy.

    References:
        Pace and Barry, 1997, Sparse spatial autoregressions, Statistics and Probability Letters
    """

    default_request: ClassVar[str] = "range=0:1"
    unit: ClassVar[str] = "× 100,000 $"
    data: str = knob("", "a table of the census as CSV, or a folder with one; empty to fetch scikit-learn's")
    width: int = knob(64, "units in each hidden layer", ge=1)
    epochs: int = knob(15, "training epochs of original and oracle", ge=1)

    def examples(self) -> Examples:
        """See `Values.examples`.

        Raises:
            BadData: If there is no such table, it cannot be read, or nothing can be fetched.
        """
        x, y = _read(Path(self.data).expanduser()) if self.data else _fetched()
        x[:, 2:6] = np.log(x[:, 2:6])
        return Examples(torch.tensor(x).float(), torch.tensor(y).float())


def _fetched() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import fetch_california_housing

    try:
        x, y = fetch_california_housing(return_X_y=True)
    except Exception as err:
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BadData(
            f"california-housing: scikit-learn could not fetch the data: {said}; give a CSV file of the census with data=PATH"
        ) from err
    return x, y


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The columns of scikit-learn from a table of the census."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise BadData(
            f"california-housing: {path} is no CSV file and no folder with one; give the table of the census with data=PATH"
        )
    with files[0].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if missing := [n for n in NAMES if not rows or n not in rows[0]]:
        raise BadData(
            f"california-housing: {files[0]} has no column {missing[0]!r}; the columns are {', '.join(NAMES)}"
        )
    try:
        found = {n: np.array([float(r[n] or "nan") for r in rows]) for n in NAMES}
    except (TypeError, ValueError) as err:
        raise BadData(f"california-housing: {files[0]} holds something that is no number: {err}") from err
    homes, rooms = found["households"], found["total_bedrooms"]
    bedrooms = np.where(np.isnan(rooms), np.nanmedian(rooms / homes), rooms / homes)
    columns = [found["median_income"], found["housing_median_age"], found["total_rooms"] / homes, bedrooms,
               found["population"], found["population"] / homes, found["latitude"], found["longitude"]]  # fmt: skip
    return np.stack(columns, 1), found["median_house_value"] / 100_000
