"""Attacks see held-out examples that are distributed as the forget set of the request at hand."""

import pytest

from unlearn.audits import audit_views
from unlearn.request import parse
from unlearn.scenarios.digits import Digits


@pytest.mark.parametrize(
    "text, removed, now, seen",
    [
        ("random=0.1", (), (), set(range(10))),
        ("class=3", (3,), (3,), {3}),
        ("class=5", (3, 5), (5,), {5}),  # after class 3
        ("random=0.1", (3,), (), set(range(10)) - {3}),  # after class 3
    ],
)
def test_audit_holds_the_classes_of_the_forget_set(text, removed, now, seen):
    material = Digits(request=parse("random=0.1")).material()
    views = audit_views(parse(text), material, removed, now)
    for name, part in (("audit", material.test), ("audit_fit", material.fit)):
        assert set(part.labels.y[views[name].rows].tolist()) == seen
    if removed:
        assert set(material.test.labels.y[views["test_forget"].rows].tolist()) == set(removed)
        assert not set(material.test.labels.y[views["test_retain"].rows].tolist()) & set(removed)
