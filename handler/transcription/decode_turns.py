"""Share the processor among requests that decode audio. Knows no audio.

A thread decodes only while it has a turn. Turns are given in the order in which threads ask for them, so a thread that
gives its turn back and asks for the next one lets everybody go first who has waited meanwhile.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class DecodeTurns:
    """At most `count` turns at a time, given in order of asking."""

    def __init__(self, count: int) -> None:
        self._num_free = count
        self._waiting: deque[tuple[threading.Event, float]] = deque()  # with the time at which each began to wait
        self._given_at = time.monotonic()  # when somebody last got a turn
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Wait for a turn."""
        with self._lock:
            if self._num_free and not self._waiting:
                self._num_free -= 1
                self._given_at = time.monotonic()
                return
            given = threading.Event()
            self._waiting.append((given, time.monotonic()))
        given.wait()

    def release(self) -> None:
        """Give a turn back, to the thread that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft()[0].set()
                self._given_at = time.monotonic()
            else:
                self._num_free += 1

    def pass_on(self) -> None:
        """Give the turn back if another thread waits for one, and wait for the next."""
        if self._waiting:
            self.release()
            self.acquire()

    def waiting_s(self) -> float:
        """Return for how many seconds somebody has waited while nobody got a turn, or 0 if nobody waits."""
        with self._lock:
            if not self._waiting:
                return 0.0
            return time.monotonic() - max(self._given_at, self._waiting[0][1])

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give the turn back while the block runs, and wait for the next one at its end."""
        self.release()
        try:
            yield
        finally:
            self.acquire()

    def __enter__(self) -> "DecodeTurns":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
