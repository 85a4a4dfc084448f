"""Spans of one process start or one request, on an injected clock. Knows nothing of what it measures."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from handler import ARRIVED


class Span(NamedTuple):
    """A stretch of time with a name; spans of several threads overlap."""

    name: str
    at: float  # seconds from the beginning of its timeline
    seconds: float


class Timeline:
    """Named durations in seconds; the spans of one name add up. From any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, age: float = 0.0) -> None:
        """`age`: seconds that had gone by before it was made."""
        self._clock = clock
        self._began = clock() - age
        self._spans: list[Span] = []

    @classmethod
    def of_process(cls) -> "Timeline":
        """It begins when the operating system made this process; up to this package it is the interpreter's start, then imports."""
        timeline = cls(age=process_age())
        here = timeline.total()
        arrived = max(0.0, here - (time.perf_counter() - ARRIVED))
        timeline._spans += [Span("interpreter", 0.0, arrived), Span("imports", arrived, here - arrived)]
        return timeline

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure the block under `name`, also where it raises."""
        began = self._clock()
        try:
            yield
        finally:
            self._spans.append(Span(name, began - self._began, self._clock() - began))

    def add(self, name: str, seconds: float) -> None:
        """Add a duration measured elsewhere, which ends now."""
        self._spans.append(Span(name, max(0.0, self.total() - seconds), seconds))

    def mark(self, name: str) -> None:
        """Note that something has come about: its seconds are those since the beginning."""
        self._spans.append(Span(name, 0.0, self.total()))

    def total(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    def spans(self) -> list[Span]:
        """Every span, by its beginning."""
        return sorted(self._spans, key=lambda span: span.at)

    def seconds(self) -> dict[str, float]:
        """Seconds under every name and in total, rounded to 0.1 ms."""
        sums: dict[str, float] = {}
        for span in self._spans:
            sums[span.name] = sums.get(span.name, 0.0) + span.seconds
        return {name: round(value, 4) for name, value in {**sums, "total": self.total()}.items()}


def process_age() -> float:
    """Seconds since the operating system made this process, to 10 ms; 0 where it does not tell. Source: man 5 proc, /proc/pid/stat."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()  # the name in front may hold anything
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds from the machine's start
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
