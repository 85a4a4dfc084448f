"""Notice whether other programs want the processors that this process computes on. Knows no engine.

Threads that compute a product together wait for the slowest one at the end of it. If another program takes the
processor of one of them, all of them wait, product after product, and the work is several times slower than the share
of the processors that is left.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

INTERVAL_S = 0.25  # between two looks at the system
# The processors count as wanted by others for at least HOLD_S. What is done meanwhile may hide that they still are, so
# the time is doubled up to LONGEST_HOLD_S whenever they turn out to be wanted again within AGAIN_S.
HOLD_S, LONGEST_HOLD_S, AGAIN_S = 2.0, 32.0, 2.0
# Seconds that the threads of this process wait for a processor, together, in a second. One thread that waits is enough
# to hold up all others. Beside one busy program, two threads on two processors wait for 0.6 s, and alone for 0.01 s.
MUCH, LITTLE = 0.20, 0.08
_TASKS = Path("/proc/self/task")


def waited_s() -> float:
    """Return for how many seconds the threads of this process have waited for a processor while they could run.

    Return 0 if the system does not say so. Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    nanoseconds = 0
    for task in _TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has ended
            nanoseconds += int(task.read_text().split()[1])
    return nanoseconds / 1e9


class Contention:
    """Tells whether others want the processors that this process computes on. Call `update` while it computes."""

    def __init__(self, waited_s: Callable[[], float] = waited_s, clock: Callable[[], float] = time.monotonic) -> None:
        self._waited_s = waited_s
        self._clock = clock
        self._looked_at = clock()
        self._waited_before_s = waited_s()
        self._hold_s = HOLD_S
        self._until = -math.inf  # time until which the processors count as wanted by others
        self.is_contended = False

    def update(self) -> None:
        """Look at the system if INTERVAL_S has passed, and set `is_contended`."""
        now = self._clock()
        if now - self._looked_at < INTERVAL_S:
            return
        waited = self._waited_s()
        share = (waited - self._waited_before_s) / (now - self._looked_at)
        self._looked_at, self._waited_before_s = now, waited
        if share > MUCH:
            if not self.is_contended:
                is_again = now - self._until < AGAIN_S
                self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S) if is_again else HOLD_S
            self._until = max(self._until, now + (HOLD_S if self.is_contended else self._hold_s))
            self.is_contended = True
        elif self.is_contended and share < LITTLE and now >= self._until:
            self.is_contended = False
            self._until = now
