"""Spans of one process start or one request, on an injected clock. Knows nothing of what it measures."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from handler import ARRIVED, ARRIVED_CPU_S

LONGEST_START_WAIT_S = 10.0  # an interpreter that starts from a slow disk waits no longer for its files
_PROCESS_STAT = Path("/proc/self/stat")
_CHILD_FAULTS, _START_TICKS = 8, 19  # fields of it, counted after the program's name


class Span(NamedTuple):
    """A named period; spans of several threads overlap."""

    name: str
    at: float  # seconds from the beginning of its timeline
    seconds: float


class Timeline:
    """Named durations in seconds; the spans of one name add up. May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, age: float = 0.0) -> None:
        """`age`: seconds that had already passed when the timeline was made."""
        self._clock = clock
        self._start = clock() - age
        self._spans: list[Span] = []

    @classmethod
    def of_process(cls) -> "Timeline":
        """Return a timeline that begins when Python began in this process.

        Until this package was reached it is the interpreter's start, and from then until now imports.
        """
        imports_s = time.perf_counter() - ARRIVED
        interpreter_s = interpreter_seconds(process_age() - imports_s, ARRIVED_CPU_S, _has_had_children())
        timeline = cls(age=interpreter_s + imports_s)
        timeline._spans += [Span("interpreter", 0.0, interpreter_s), Span("imports", interpreter_s, imports_s)]
        return timeline

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure the block under `name`, also if it raises."""
        start = self._clock()
        try:
            yield
        finally:
            self._spans.append(Span(name, start - self._start, self._clock() - start))

    def add(self, name: str, seconds: float) -> None:
        """Add a duration that was measured elsewhere and ends now."""
        self._spans.append(Span(name, max(0.0, self.total() - seconds), seconds))

    def mark(self, name: str) -> None:
        """Add a span from the beginning of the timeline until now."""
        self._spans.append(Span(name, 0.0, self.total()))

    def total(self) -> float:
        """Return the seconds since the timeline began."""
        return self._clock() - self._start

    def spans(self) -> list[Span]:
        """Return every span, ordered by its beginning."""
        return sorted(self._spans, key=lambda span: span.at)

    def seconds(self) -> dict[str, float]:
        """Return the seconds under every name and in total, rounded to 0.1 ms."""
        sums: dict[str, float] = {}
        for span in self._spans:
            sums[span.name] = sums.get(span.name, 0.0) + span.seconds
        return {name: round(value, 4) for name, value in {**sums, "total": self.total()}.items()}


def process_age() -> float:
    """Return the seconds since the operating system made this process, to 10 ms; 0 if it does not report them.

    Source: man 5 proc, /proc/pid/stat.
    """
    fields = _process_stat()
    if not fields:
        return 0.0
    start = int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")  # seconds from the machine's start
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start)


def interpreter_seconds(age: float, cpu_s: float, has_had_children: bool) -> float:
    """Return the seconds that Python needed to reach this package, given the process's age and processor time by then.

    That is the process's age, unless it began as another program. A script that ends in `exec python` hands its
    process over to Python, so that the age contains all that the script did, and Linux records no time of an exec.
    Two signs show such a process: children have ended in it (a script runs programs; Python has run none at this
    point), or it has waited for longer than any interpreter waits for its files. The processor time is then the
    estimate: it leaves out what the interpreter waited for a disk, and includes the script's own few milliseconds,
    though not those of its programs.
    """
    waits_too_long = age - cpu_s > LONGEST_START_WAIT_S
    if has_had_children or waits_too_long:
        age = min(age, cpu_s)
    return max(0.0, age)


def _has_had_children() -> bool:
    """Return whether child processes of this process have ended: each had a page fault at least."""
    fields = _process_stat()
    return bool(fields) and int(fields[_CHILD_FAULTS]) > 0


def _process_stat() -> list[str]:
    """Return the fields of /proc/self/stat after the program's name, which may have spaces; none on other systems."""
    return _PROCESS_STAT.read_text().rpartition(")")[2].split() if _PROCESS_STAT.is_file() else []
