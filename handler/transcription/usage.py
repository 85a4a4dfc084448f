"""What a process has done since it began, as numbers that only grow. From any thread. Knows no request and no format."""

import threading
from collections import Counter


class Counters:
    """Sums by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        """Add to sums."""
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount  # type: ignore[assignment]

    def sums(self) -> dict[str, float]:
        """The sums by now."""
        with self._lock:
            return dict(self._sums)
