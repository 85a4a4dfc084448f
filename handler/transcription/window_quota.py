"""How many windows are cut and not yet decoded: some for each request, and some that all share. Knows no window."""

import threading


class WindowQuota:
    """Room for `own` windows of each request, and for `shared` more of all requests together."""

    def __init__(self, own: int, shared: int) -> None:
        self._own = own
        self._shared = shared
        self._changed = threading.Condition()

    def share(self, own_only: bool = False) -> "RequestQuota":
        """A request's part of it; `own_only`: it never takes of what all share."""
        return RequestQuota(self, own_only)


class RequestQuota:
    """What one request has taken. From any thread."""

    def __init__(self, budget: WindowQuota, own_only: bool) -> None:
        self._budget = budget
        self._own_only = own_only
        self._taken = 0
        self._closed = False

    def fits(self) -> bool:
        """Whether there is room for one window more now."""
        return self._closed or self._taken < self._budget._own or (self._budget._shared > 0 and not self._own_only)

    def take(self) -> None:
        """Wait until there is room for one window more, and take it; after `close` at once."""
        with self._budget._changed:
            self._budget._changed.wait_for(self.fits)
            if not self._closed:
                self._taken += 1
                self._budget._shared -= self._taken > self._budget._own

    def give(self) -> None:
        """One window less."""
        with self._budget._changed:
            self._give(min(1, self._taken))

    def close(self) -> None:
        """Give everything back; nobody waits here any more."""
        with self._budget._changed:
            self._closed = True
            self._give(self._taken)

    def _give(self, count: int) -> None:
        over = max(0, self._taken - self._budget._own)
        self._budget._shared += min(over, count)
        self._taken -= count
        self._budget._changed.notify_all()
