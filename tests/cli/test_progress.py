"""Progress bars: how far they are, and what time they say is left."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from unlearn.commands.console import Bars, columns, remaining
from unlearn.runtime import Part


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def bars(clock):
    return Bars(Progress(*columns(), console=Console(file=io.StringIO(), width=100), get_time=clock))


def shown(bars, task):
    """What the last columns of a bar say: models, elapsed, remaining."""
    bar = next(t for t in bars._inner.tasks if t.id == task)
    return [str(column(bar)) for column in bars._inner.columns[2:]]


def test_remaining_time_is_that_of_the_whole():
    assert remaining(30.0, 7.5, 30) == 90 and remaining(8.0, 32, 32) == 0 and remaining(8.0, 33, 32) == 0
    assert remaining(30.0, 0, 32) is None and remaining(30.0, 3, None) is None


def test_models_that_come_together_do_not_make_the_rest_quick(bars, clock):
    """Eight of 32 in a burst after 40 s: 120 s are left, and two minutes later none."""
    task = bars.start("train 32 models", 32)
    assert shown(bars, task) == [" 0/32", "0:00:00", "-:--:--"]
    clock.now += 40
    for _ in range(8):
        bars.advance(task)
        clock.now += 0.001
    assert shown(bars, task) == [" 8/32", "0:00:40", "0:02:00"]
    for _ in range(3):
        clock.now += 40
        bars.advance(task, 8.0)
    assert shown(bars, task)[::2] == ["32/32", "0:00:00"]


def test_parts_of_a_model_count(bars, clock):
    """A group of eight after 5 of 20 epochs of 2 s is two models far: 150 s are left; no burst at its end."""
    task = bars.start("train 32 models", 32)
    part = Part(bars, task, 8)
    epochs = part.start("train", 20)
    for _ in range(5):
        clock.now += 2
        part.advance(epochs)
    assert shown(bars, task) == [" 2/32", "0:00:10", "0:02:30"]
    inside = part.start("something else", 3)
    part.advance(inside)
    assert shown(bars, task)[0] == " 2/32", "what goes on inside an epoch draws nothing"
    for _ in range(15):
        part.advance(epochs)
    part.close()
    assert shown(bars, task)[0] == " 8/32"


def test_thirds_add_up(bars):
    task = bars.start("train 3 models", 3)
    for _ in range(3):
        part = Part(bars, task)
        epochs = part.start("train", 3)
        for _ in range(3):
            part.advance(epochs)
        part.close()
    assert shown(bars, task)[0] == "3/3"


@pytest.mark.parametrize("total", [None, 0, 4])
def test_a_part_moves_by_its_size_whatever_happens_in_it(total):
    moved = []

    class Outer:
        def advance(self, task, by=1.0):
            moved.append((task, by))

    part = Part(Outer(), 7, 2.5)
    first = part.start("train", total)
    for _ in range(9):
        part.advance(first)
    part.stop(first)
    part.close()
    part.close()
    assert {task for task, _ in moved} == {7} and sum(by for _, by in moved) == pytest.approx(2.5)
