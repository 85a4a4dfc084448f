"""Totals of everything a process has done, which only grow. From any thread. Knows no request and no format."""

import threading
from collections import Counter


class Counters:
    """Totals by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        """Add each amount to the total of its name."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount  # type: ignore[assignment]

    def totals(self) -> dict[str, float]:
        """Return a copy of the totals."""
        with self._lock:
            return dict(self._totals)
