"""Measure named spans of time during the start of a process or during a request. Does not know what it measures."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from handler import ARRIVED, ARRIVED_CPU_S

LONGEST_START_WAIT_S = 10.0  # upper limit of how long a starting interpreter waits for its files
_PROCESS_STAT = Path("/proc/self/stat")
_CHILD_FAULTS, _START_TICKS = 8, 19  # indices of fields after the program's name


class Span(NamedTuple):
    """A named period. Spans of different threads may overlap."""

    name: str
    at: float  # seconds from the beginning of its timeline
    seconds: float


class Timeline:
    """Named spans of time. May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, age: float = 0.0) -> None:
        """Create a timeline that began `age` seconds ago. `clock` returns the current time in seconds."""
        self._clock = clock
        self._start = clock() - age
        self._spans: list[Span] = []

    @classmethod
    def of_process(cls) -> "Timeline":
        """Return a timeline that began when Python started in this process.

        The span `interpreter` lasted until this package was first reached, and the span `imports` from then until now.
        """
        imports_s = time.perf_counter() - ARRIVED
        interpreter_s = interpreter_seconds(process_age() - imports_s, ARRIVED_CPU_S, _has_had_children())
        timeline = cls(age=interpreter_s + imports_s)
        timeline._spans += [Span("interpreter", 0.0, interpreter_s), Span("imports", interpreter_s, imports_s)]
        return timeline

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure the block as a span, even if the block raises an exception."""
        start = self._clock()
        try:
            yield
        finally:
            self._spans.append(Span(name, start - self._start, self._clock() - start))

    def add(self, name: str, seconds: float) -> None:
        """Add a span of `seconds` that was measured elsewhere and ends now."""
        self._spans.append(Span(name, max(0.0, self.total() - seconds), seconds))

    def mark(self, name: str) -> None:
        """Add a span from the beginning of the timeline until now."""
        self._spans.append(Span(name, 0.0, self.total()))

    def total(self) -> float:
        """Return the seconds since the timeline began."""
        return self._clock() - self._start

    def spans(self) -> list[Span]:
        """Return all spans in the order in which they began."""
        return sorted(self._spans, key=lambda span: span.at)

    def seconds(self) -> dict[str, float]:
        """Return the total seconds of the spans of each name, rounded to 0.1 ms.

        The name `total` has the seconds since the timeline began.
        """
        sums: dict[str, float] = {}
        for span in self._spans:
            sums[span.name] = sums.get(span.name, 0.0) + span.seconds
        return {name: round(value, 4) for name, value in {**sums, "total": self.total()}.items()}


def process_age() -> float:
    """Return the seconds since the operating system created this process, with a resolution of 10 ms.

    Return 0 if the operating system does not report when the process was created. Source: man 5 proc, /proc/pid/stat.
    """
    fields = _process_stat()
    if not fields:
        return 0.0
    start = int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")  # seconds from the machine's start
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start)


def interpreter_seconds(age: float, cpu_s: float, has_had_children: bool) -> float:
    """Return the seconds that Python needed from its start until it reached this package.

    At that moment, the process had existed for `age` seconds and used `cpu_s` seconds of processor time.
    `has_had_children` is whether the process had had a child process that ended.

    Usually the result is `age`. It is an estimate if the process began as another program, such as a script that ends
    in `exec python`. Then `age` also contains all that the script did, and Linux does not record the time of the exec.
    There are two signs of such a process. The first is that child processes have ended, because a script runs programs
    and Python has run none at this point. The second is that the process has waited for more than LONGEST_START_WAIT_S,
    which is longer than any interpreter waits for its files.

    The estimate is `cpu_s`, but at most `age`. The estimate leaves out how long the interpreter waited for a disk. It
    includes the processor time of the script itself, a few milliseconds, but not that of the programs that the script
    ran.
    """
    waits_too_long = age - cpu_s > LONGEST_START_WAIT_S
    if has_had_children or waits_too_long:
        age = min(age, cpu_s)
    return max(0.0, age)


def _has_had_children() -> bool:
    """Return whether child processes of this process have ended, as shown by the page faults that each of them had."""
    fields = _process_stat()
    return bool(fields) and int(fields[_CHILD_FAULTS]) > 0


def _process_stat() -> list[str]:
    """Return the fields of /proc/self/stat that follow the program's name, which may contain spaces.

    Return an empty list on systems other than Linux.
    """
    return _PROCESS_STAT.read_text().rpartition(")")[2].split() if _PROCESS_STAT.is_file() else []
