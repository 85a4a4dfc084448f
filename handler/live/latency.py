"""Count how long people wait for the text of what they have said. Knows no turn and no protocol."""

import threading
from bisect import bisect_left

BOUNDS_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.6, 2.0, 3.0, 5.0, 10.0)


class LatencyHistogram:
    """Counts seconds in ranges. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)  # the last one: above all bounds
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one wait."""
        with self._lock:
            self._counts[bisect_left(BOUNDS_S, seconds)] += 1
            self._sum += seconds

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many waits were at most as long as each bound, `+Inf` last, and the sum of all seconds."""
        with self._lock:
            counts, total_s = list(self._counts), self._sum
        total, buckets = 0, []
        for bound, count in zip((*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"), counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, total_s


class LiveLatency:
    """What live sessions are measured by."""

    def __init__(self) -> None:
        self.word = LatencyHistogram()  # from the arrival of the end of a word to the event that tells the word
        self.turn = LatencyHistogram()  # from the arrival of the last speech of a turn to its complete text
