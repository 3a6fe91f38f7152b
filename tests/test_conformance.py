"""Every registered plugin keeps to the conformance kit; nothing is listed by hand."""

from __future__ import annotations

import pytest

from unlearn.data import Resident, Stream
from unlearn.registry import attacks, methods, metrics, scenarios, subjects
from unlearn.testing import checks_for


def plugins():
    for registry in (methods, metrics, attacks, subjects, scenarios):
        for name in registry.names():
            yield f"{registry.kind}-{name}", registry.get(name)
    yield "handle-resident", Resident
    yield "handle-stream", Stream


CASES = [
    pytest.param(
        check, id=f"{p}-{name}", marks=pytest.mark.xdist_group(p)
    )  # checks of one plugin share their runs
    for p, cls in plugins()
    for name, check in checks_for(cls)
]


@pytest.mark.parametrize("check", CASES)
def test_conforms(check):
    check()
