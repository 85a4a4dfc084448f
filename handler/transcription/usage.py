"""Count the work that a process has done since it started. Knows no request and no format."""

import threading
from collections import Counter


class Counters:
    """Named totals that only grow. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        """Add each keyword argument to the total of the same name, which starts at 0."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount  # type: ignore[assignment]

    def totals(self) -> dict[str, float]:
        """Return a copy of all totals by name."""
        with self._lock:
            return dict(self._totals)
