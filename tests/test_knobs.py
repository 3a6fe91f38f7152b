import json

import pytest

from unlearn.errors import BadValue
from unlearn.knobs import Declared, knob


class Example(Declared):
    lr: float = knob(0.1, "step size", gt=0, le=1, search=(0.01, 0.5))
    steps: int = knob(3, "steps", ge=1)
    drops: tuple[int, ...] = knob((5, 8), "epochs of decay")
    fast: bool = knob(True, "whether to hurry")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": 0.0}, "example: lr must be > 0 and <= 1, got 0.0 (default 0.1)"),
        ({"lr": 1.5}, "example: lr must be > 0 and <= 1, got 1.5 (default 0.1)"),
        ({"lr": float("nan")}, "example: lr must be > 0 and <= 1, got nan"),
        ({"lr": "fast"}, "example: lr must be float, got 'fast'"),
        ({"steps": True}, "example: steps must be int, got True"),
        ({"steps": 2.5}, "example: steps must be int, got 2.5"),
        ({"speed": 1}, "example: speed is no field; the fields are lr, steps, drops, fast"),
    ],
)
def test_a_bad_value_is_one_line_that_names_field_range_and_value(values, said):
    with pytest.raises(BadValue) as caught:
        Example(**values)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_every_bad_field_is_named_in_one_error():
    with pytest.raises(BadValue, match=r"lr must be .*; steps must be >= 1, got 0"):
        Example(lr=-1.0, steps=0)


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Example().lr = 0.5


def test_json_round_trip_restores_tuples():
    value = Example(lr=0.5, drops=(1, 2, 3))
    assert Example.from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_whole_numbers_serve_as_floats():
    assert Example(lr=1).lr == 1.0


def test_declared_bounds_and_search_range_can_be_read():
    lr = next(Example.knobs())
    assert (lr.name, lr.default, lr.bounds, lr.search) == ("lr", 0.1, {"gt": 0, "le": 1}, (0.01, 0.5))
