"""Limit how many windows are cut but not yet decoded (back-pressure). Knows no window and no engine."""

import threading


class WindowQuota:
    """A quota of `reserved` windows for each request, plus `pool` more windows that all requests share."""

    def __init__(self, reserved: int, pool: int) -> None:
        self._reserved = reserved
        self._pool = pool  # number of shared windows that are free
        self._changed = threading.Condition()

    def for_request(self, reserved_only: bool = False) -> "RequestQuota":
        """Return the quota of a new request, which may hold its own reserved windows and windows of the shared pool.

        If `reserved_only` is true, it may hold its own reserved windows alone.
        """
        return RequestQuota(self, reserved_only)


class RequestQuota:
    """Counts the windows that one request holds. Windows may be acquired and released from any thread."""

    def __init__(self, quota: WindowQuota, reserved_only: bool) -> None:
        self._quota = quota
        self._reserved_only = reserved_only
        self._num_windows = 0
        self._is_closed = False

    def has_capacity(self) -> bool:
        """Return whether `acquire` would return without waiting."""
        has_reserve = self._num_windows < self._quota._reserved
        return self._is_closed or has_reserve or (self._quota._pool > 0 and not self._reserved_only)

    def acquire(self) -> None:
        """Wait until there is capacity for one more window, and take that capacity. Return at once after `close`."""
        with self._quota._changed:
            self._quota._changed.wait_for(self.has_capacity)
            if not self._is_closed:
                self._num_windows += 1
                self._quota._pool -= self._num_windows > self._quota._reserved

    def release(self) -> None:
        """Give back the capacity of one window. Do nothing if the request holds none."""
        with self._quota._changed:
            self._release(min(1, self._num_windows))

    def close(self) -> None:
        """Give back the capacity of all windows, and make every waiting `acquire` return."""
        with self._quota._changed:
            self._is_closed = True
            self._release(self._num_windows)

    def _release(self, count: int) -> None:
        num_from_pool = max(0, self._num_windows - self._quota._reserved)
        self._quota._pool += min(num_from_pool, count)
        self._num_windows -= count
        self._quota._changed.notify_all()
