"""Bound the connections of a server, so that it never runs out of file descriptors. Knows no HTTP.

If no more connections fit, an older one that does no work is closed for each new one: first one that waits between two
requests, then one whose response is already sent, then the one that has waited longest to send a whole request head,
and at last one whose client reads slowly or has sent requests ahead.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from handler import logs

MAX_DESCRIPTORS = 65_536  # the soft limit is raised as far as this, and no farther than the hard limit
SPARE_DESCRIPTORS = 128  # left to files of requests that were let in, to imports, and to refusals
DESCRIPTORS_PER_REQUEST = 7  # connection, two parts of a spool, two of a download, channel and memory of its process
MIN_CONNECTIONS = 2048  # allowed if descriptors suffice; each may hold 64 KiB of an incomplete request head
CONNECTIONS_PER_REQUEST = 4
MAX_SURPLUS = 32  # connections above the limit, which get nothing but a refusal or the answer of a health check
_LOG_INTERVAL_S = 60.0


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors towards the hard one, and return how many this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connection_limit(descriptors: int, max_requests: int) -> int:
    """Return how many connections a process with `descriptors` file descriptors may hold.

    If the descriptors do not suffice for `max_requests` requests in work and as many connections that wait, a warning
    is logged.
    """
    expected = SPARE_DESCRIPTORS + (DESCRIPTORS_PER_REQUEST + 1) * max_requests
    if descriptors < expected:
        logs.warning("few_descriptors", limit=descriptors, expected=f"at least {expected}, as `ulimit -n` shows it")
    wanted = max(MIN_CONNECTIONS, CONNECTIONS_PER_REQUEST * max_requests)
    return min(highest_descriptor(descriptors), wanted)


def highest_descriptor(descriptors: int) -> int:
    """Return the highest number that the descriptor of a new connection should have.

    The system gives the lowest number that is free, so a number says that all below it are in use, whatever for.
    """
    return max(descriptors - SPARE_DESCRIPTORS, descriptors // 2)


class Connection(Protocol):
    """What a ConnectionRegistry needs to know of a connection."""

    @property
    def is_answered(self) -> bool:
        """Whether all requests of the connection are answered."""

    @property
    def is_stalled(self) -> bool:
        """Whether the client does not read its answer just now, or does not wait for it."""

    def evict(self) -> None:
        """Close the connection at once."""


class ConnectionRegistry:
    """All open connections, each of which is idle, reading a request head, or busy. Closes some if too many open."""

    def __init__(self, limit: int, highest_descriptor: int = MAX_DESCRIPTORS) -> None:
        """Create a registry for at most `limit` connections, and MAX_SURPLUS more that get nothing but a refusal.

        A connection whose descriptor has a number above `highest_descriptor` exceeds the limit, too.
        """
        self.limit = limit
        self._highest_descriptor = highest_descriptor
        self._idle: dict[Connection, None] = {}  # the oldest first, like the next two
        self._reading_head: dict[Connection, None] = {}
        self._busy: dict[Connection, None] = {}
        self._last_log_s = -_LOG_INTERVAL_S

    def __len__(self) -> int:
        return len(self._idle) + len(self._reading_head) + len(self._busy)

    def add(self, connection: Connection, descriptor: int = 0) -> bool:
        """Add a new connection, which reads a request head. Return False if it exceeds the limit.

        At the limit, others are evicted if they can be spared.
        """
        is_crowded = descriptor > self._highest_descriptor
        while (is_crowded or len(self) >= self.limit) and (other := next(self._spare_connections(), None)):
            self._evict(other)
            is_crowded = False
        is_within_limit = len(self) < self.limit and not is_crowded
        self._reading_head[connection] = None
        if not is_within_limit:
            self._log()
        if len(self) > self.limit + MAX_SURPLUS:
            self._evict(connection)
        return is_within_limit

    def discard(self, connection: Connection) -> None:
        """Forget a connection that is closed. Do nothing if it is not known."""
        for group in (self._idle, self._reading_head, self._busy):
            group.pop(connection, None)

    def mark_idle(self, connection: Connection) -> None:
        """Record that a connection waits for its next request."""
        self._move(connection, self._idle)

    def mark_reading_head(self, connection: Connection) -> None:
        """Record that a connection has begun to send a request head."""
        if connection not in self._reading_head:  # else it would count as younger
            self._move(connection, self._reading_head)

    def mark_busy(self, connection: Connection) -> None:
        """Record that a connection has sent a whole request head."""
        self._move(connection, self._busy)

    def _move(self, connection: Connection, group: dict[Connection, None]) -> None:
        for previous_group in (self._idle, self._reading_head, self._busy):
            if connection in previous_group:  # not if it was evicted
                del previous_group[connection]
                group[connection] = None
                return

    def _spare_connections(self) -> Iterator[Connection]:
        """Yield connections that can be evicted, the one that is missed least first."""
        yield from self._idle
        yield from (connection for connection in self._busy if connection.is_answered)
        if len(self._reading_head) >= MAX_SURPLUS:  # the youngest are given the time to send their heads
            yield from self._reading_head
        yield from (connection for connection in self._busy if connection.is_stalled)

    def _evict(self, connection: Connection) -> None:
        if connection not in self._idle:
            self._log()
        self.discard(connection)
        connection.evict()

    def _log(self) -> None:
        now = time.monotonic()
        if now - self._last_log_s >= _LOG_INTERVAL_S:
            self._last_log_s = now
            counts = {"reading_head": len(self._reading_head), "busy": len(self._busy)}
            logs.warning("connections_full", limit=self.limit, **counts)
