"""Spans of one process start or one request, on an injected clock. Knows nothing of what it measures."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timeline:
    """Named durations in seconds; the spans of one name add up."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure the block under `name`, also where it raises."""
        began = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add a duration measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def total(self) -> float:
        """Seconds since this timeline was made."""
        return self._clock() - self._began

    def seconds(self) -> dict[str, float]:
        """Every span and the total, in seconds, rounded to 0.1 ms."""
        return {name: round(value, 4) for name, value in {**self._seconds, "total": self.total()}.items()}
