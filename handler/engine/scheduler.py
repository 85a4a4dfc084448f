"""Which waiting work goes next: fairness between requests, cancel. Opaque items; knows no tensor, no audio, no clock."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

PATIENCE = 64  # steps: about what a sentence takes


class Scheduler(Generic[Item]):
    """Items of many requests, waiting and running.

    Requests take turns, one item each. A request's first item passes those who wait for a turn, but only every other time;
    and while it runs, others stay out, PATIENCE calls of `admit` long at most: whoever asks for little has it soon.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._fresh: deque[Hashable] = deque()  # requests none of whose items has run
        self._turns: deque[Hashable] = deque()  # the others that have an item waiting
        self._fresh_went = False  # the last one admitted was a first item
        self._running: dict[Item, Hashable] = {}
        self._first: dict[Item, Hashable] = {}  # of these, the first items of their requests
        self._waited = 0  # calls of `admit` since an item that was no first one went
        self._rows: dict[Item, int] = {}  # of items that take more than one
        self._seen: set[Hashable] = set()

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> list[Item]:
        """Items admitted and not finished."""
        return list(self._running)

    def shares(self) -> dict[Hashable, int]:
        """How many rows each request has running."""
        rows: dict[Hashable, int] = {}
        for item, request in self._running.items():
            rows[request] = rows.get(request, 0) + self._rows.get(item, 1)
        return rows

    def submit(self, request: Hashable, item: Item, rows: int = 1) -> None:
        """Let an item of a request, which takes `rows` rows, wait for its turn."""
        queue = self._waiting.setdefault(request, deque())
        if not queue:
            (self._turns if request in self._seen else self._fresh).append(request)
        queue.append(item)
        if rows > 1:
            self._rows[item] = rows

    def admit(self, room: int, most: int) -> list[Item]:
        """The items that go now into `room` free rows, `most` of them at most; they count as running from here on.

        An item that needs more rows than are free keeps its turn, and those behind it wait with it: else it would starve.
        """
        chosen: list[Item] = []
        self._waited += 1
        while len(chosen) < most and (self._fresh or self._turns):
            turn = next((request for request in self._turns if self._may_join(request)), None)
            fresh = bool(self._fresh) and (turn is None or not self._fresh_went)
            if not fresh and turn is None:
                break
            order, request = (self._fresh, self._fresh[0]) if fresh else (self._turns, turn)
            queue = self._waiting[request]
            room -= self._rows.get(queue[0], 1)
            if room < 0:
                break
            order.remove(request)
            item = queue.popleft()
            self._fresh_went = fresh
            if fresh:
                self._first[item] = request
            else:
                self._waited = 0
            self._seen.add(request)
            self._running[item] = request
            chosen.append(item)
            if queue:
                self._turns.append(request)
            else:
                del self._waiting[request]
        return chosen

    def _may_join(self, request: Hashable) -> bool:
        """Whether an item of a request may run beside the first items that do."""
        return self._waited >= PATIENCE or all(owner == request for owner in self._first.values())

    def finish(self, item: Item) -> bool:
        """A running item is done. False where it was not running: cancelled meanwhile, or never admitted."""
        self._first.pop(item, None)
        self._rows.pop(item, None)
        return self._running.pop(item, None) is not None

    def again(self) -> None:
        """All that runs waits once more, before what waits already."""
        for item, request in reversed(self._running.items()):
            queue = self._waiting.setdefault(request, deque())
            if not queue:
                self._turns.appendleft(request)
            queue.appendleft(item)
        self._running.clear()
        self._first.clear()

    def forget_wide(self, rows: int) -> list[Item]:
        """Forget the items that wait for more than `rows` rows: there will never be so many."""
        wide = [item for queue in self._waiting.values() for item in queue if self._rows.get(item, 1) > rows]
        for request, queue in list(self._waiting.items()):
            self._waiting[request] = left = deque(item for item in queue if item not in wide)
            if not left:
                self._stop_waiting(request)
        for item in wide:
            del self._rows[item]
        return wide

    def cancel(self, request: Hashable) -> tuple[list[Item], list[Item]]:
        """Forget a request. Its items that waited, and those that were running, for the engine to drop."""
        waited = list(self._waiting.get(request, ()))
        for item in waited:
            self._rows.pop(item, None)
        self._stop_waiting(request)
        self._seen.discard(request)
        running = [item for item, owner in self._running.items() if owner == request]
        for item in running:
            self.finish(item)
        return waited, running

    def _stop_waiting(self, request: Hashable) -> None:
        self._waiting.pop(request, None)
        for order in (self._fresh, self._turns):
            if request in order:
                order.remove(request)
