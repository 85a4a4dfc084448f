"""Back-pressure: a bound on the windows that are cut but not yet decoded. Knows no window and no engine."""

import threading


class WindowQuota:
    """A quota of `reserved` windows for each request, plus a pool of `pool` more that all requests draw from."""

    def __init__(self, reserved: int, pool: int) -> None:
        self._reserved = reserved
        self._pool = pool  # windows of the pool that are free
        self._changed = threading.Condition()

    def for_request(self, reserved_only: bool = False) -> "RequestQuota":
        """Return the quota of a new request; with `reserved_only` it never draws from the pool."""
        return RequestQuota(self, reserved_only)


class RequestQuota:
    """The windows that one request holds. From any thread."""

    def __init__(self, quota: WindowQuota, reserved_only: bool) -> None:
        self._quota = quota
        self._reserved_only = reserved_only
        self._num_windows = 0
        self._is_closed = False

    def has_capacity(self) -> bool:
        """Report whether one more window can be acquired now."""
        has_reserve = self._num_windows < self._quota._reserved
        return self._is_closed or has_reserve or (self._quota._pool > 0 and not self._reserved_only)

    def acquire(self) -> None:
        """Wait until there is capacity for one more window, then take it; return at once after `close`."""
        with self._quota._changed:
            self._quota._changed.wait_for(self.has_capacity)
            if not self._is_closed:
                self._num_windows += 1
                self._quota._pool -= self._num_windows > self._quota._reserved

    def release(self) -> None:
        """Return the capacity of one window."""
        with self._quota._changed:
            self._release(min(1, self._num_windows))

    def close(self) -> None:
        """Return all capacity and end every wait."""
        with self._quota._changed:
            self._is_closed = True
            self._release(self._num_windows)

    def _release(self, count: int) -> None:
        num_from_pool = max(0, self._num_windows - self._quota._reserved)
        self._quota._pool += min(num_from_pool, count)
        self._num_windows -= count
        self._quota._changed.notify_all()
