"""The conformance kit: what every method, metric, attack, subject and handle must keep to, for plugin authors too.

`check_method(Mine)` runs every check and reports all failures; `checks_for(Mine)` yields them one by one, so
that a test runner shows each by name:

    @pytest.mark.parametrize("check", [pytest.param(c, id=n) for n, c in checks_for(Mine)])
    def test_mine(check):
        check()
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from unlearn.attack import Attack
from unlearn.data import Handle, Resident, Stream
from unlearn.errors import BadValue
from unlearn.method import Method
from unlearn.metric import Metric
from unlearn.registry import scenarios
from unlearn.scenario import Scenario
from unlearn.sources import Arrays, Pixels
from unlearn.testing.attack_checks import attack_checks, check_attack
from unlearn.testing.declared_checks import declared_checks
from unlearn.testing.handle_checks import check_handle, handle_checks
from unlearn.testing.method_checks import check_method, method_checks
from unlearn.testing.metric_checks import check_metric, metric_checks
from unlearn.testing.subject_checks import check_subject, subject_checks, subject_class_checks
from unlearn.testing.verdicts import Check, Named

__all__ = [
    "Check",
    "Named",
    "attack_checks",
    "check_attack",
    "check_handle",
    "check_method",
    "check_metric",
    "check_subject",
    "checks_for",
    "handle_checks",
    "method_checks",
    "metric_checks",
    "subject_checks",
]


def checks_for(cls: type[Any]) -> Named:
    """Names and checks of a plugin class of any kind.

    A subject or a handle that cannot be built without arguments is checked further with `check_subject` or
    `check_handle` on an instance.

    Args:
        cls: A method, metric, attack, subject, scenario, or one of the two handles.

    Raises:
        BadValue: If the class is no plugin.
    """
    if issubclass(cls, Method):
        return method_checks(cls)
    if issubclass(cls, Attack):
        return attack_checks(cls)
    if issubclass(cls, Metric):
        return metric_checks(cls)
    if issubclass(cls, Scenario):
        return declared_checks(cls, scenarios, needs_default=False)
    if cls in (Resident, Stream):
        return handle_checks(partial(_images, cls))
    if callable(getattr(cls, "clone", None)):
        return subject_class_checks(cls)
    raise BadValue(
        f"{cls.__name__} is no plugin; give a class registered as a method, metric, attack, subject or scenario"
    )


def _images(kind: type[Resident] | type[Stream]) -> Handle:
    """Eleven of twelve images behind a handle that crops and flips."""
    pixels = torch.randint(
        0, 256, (12, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    source = Arrays(pixels, torch.arange(12) % 3)
    return kind(source, Pixels((0.5,), (0.25,), pad=1, flip=True), torch.arange(11).flip(0))
