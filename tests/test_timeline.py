"""Where the time of a start or a request went, on a clock that the test winds."""

import subprocess
import sys

import pytest

from handler.timeline import Timeline, process_age


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_spans_of_one_name_add_up_and_count_where_the_block_raises() -> None:
    clock = Clock()
    timeline = Timeline(clock)

    def fail(seconds: float) -> None:
        clock.now += seconds
        raise KeyError

    for seconds in (1.0, 2.0):
        with pytest.raises(KeyError), timeline.span("read"):
            fail(seconds)
        clock.now += 10.0
    assert timeline.seconds() == {"read": 3.0, "total": 23.0}


def test_spans_are_placed_from_the_beginning_of_what_is_measured() -> None:
    clock = Clock()
    timeline = Timeline(clock, age=5.0)
    clock.now += 2.0
    timeline.add("late", 0.5)
    with timeline.span("last"):
        clock.now += 1.0
    assert timeline.spans() == [("late", 6.5, 0.5), ("last", 7.0, 1.0)]


def test_a_process_knows_how_long_ago_it_began() -> None:
    program = "import time, sys; began = time.monotonic(); from handler.timeline import process_age; "
    program += "print(process_age(), time.monotonic() - began)"
    age, since = map(float, subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert age > since - 0.01
    assert process_age() > age or sys.platform != "linux"


def test_the_start_of_a_process_begins_with_the_interpreter() -> None:
    timeline = Timeline.of_process()
    first, second = timeline.spans()
    assert (first.name, first.at) == ("interpreter", 0.0)
    assert (second.name, second.at) == ("imports", first.seconds)
    assert timeline.total() >= second.at + second.seconds
