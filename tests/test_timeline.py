"""The spans of a start or a request, on a clock that the test sets, and the beginning of a process."""

import json
import subprocess
import sys

import pytest

from handler.timeline import Timeline, interpreter_seconds, process_age
from tests.conftest import ROOT


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_spans_of_one_name_add_up_and_count_if_the_block_raises() -> None:
    clock = Clock()
    timeline = Timeline(clock)

    def fail(seconds: float) -> None:
        clock.seconds += seconds
        raise KeyError

    for seconds in (1.0, 2.0):
        with pytest.raises(KeyError), timeline.span("read"):
            fail(seconds)
        clock.seconds += 10.0
    assert timeline.seconds() == {"read": 3.0, "total": 23.0}


def test_spans_are_relative_to_the_beginning_of_the_timeline() -> None:
    clock = Clock()
    timeline = Timeline(clock, age=5.0)
    clock.seconds += 2.0
    timeline.add("late", 0.5)
    with timeline.span("last"):
        clock.seconds += 1.0
    assert timeline.spans() == [("late", 6.5, 0.5), ("last", 7.0, 1.0)]


def test_a_process_knows_its_age() -> None:
    program = "import time; start = time.monotonic(); from handler.timeline import process_age; "
    program += "print(process_age(), time.monotonic() - start)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    age, import_s = map(float, process.stdout.split())
    assert age > import_s - 0.01
    assert process_age() > age or sys.platform != "linux"


def test_the_start_of_a_process_begins_with_the_interpreter() -> None:
    timeline = Timeline.of_process()
    first, second = timeline.spans()
    assert (first.name, first.at) == ("interpreter", 0.0)
    assert (second.name, second.at) == ("imports", first.seconds)
    assert timeline.total() >= second.at + second.seconds


WAIT_S = 2
SPANS = "import json; from handler.timeline import Timeline; print(json.dumps(Timeline.of_process().seconds()))"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report a process's age")
def test_the_start_of_a_process_does_not_contain_the_shell_that_became_it() -> None:
    """The shell starts a program and waits, then replaces itself by Python."""
    script = f'read -t {WAIT_S} <> <(:); exec "$@"'
    command = ["bash", "-c", script, "bash", sys.executable, "-c", SPANS]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    spans = json.loads(process.stdout)
    assert 0 < spans["interpreter"] < WAIT_S
    assert spans["interpreter"] <= spans["total"] < WAIT_S


@pytest.mark.parametrize(
    ("age", "cpu_s", "has_had_children", "expected"),
    [
        (0.3, 0.1, False, 0.3),  # a new process: what it has waited for its files counts
        (65.0, 0.1, True, 0.1),  # a shell that ran programs for a minute
        (65.0, 0.1, False, 0.1),  # a process that waited longer than an interpreter does
        (65.0, 60.0, False, 65.0),  # a process that worked all the time
        (0.1, 0.2, True, 0.1),  # several threads
        (-1.0, 0.1, False, 0.0),  # a system that does not report the age
    ],
)
def test_the_interpreter_s_share_is_estimated_if_the_process_was_another_program(
    age: float, cpu_s: float, has_had_children: bool, expected: float
) -> None:
    assert interpreter_seconds(age, cpu_s, has_had_children) == expected
