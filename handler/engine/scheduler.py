"""Which waiting item runs next: fairness between requests, and cancelling.

Items are opaque. Knows no tensor, no audio and no clock.
"""

from collections import deque
from collections.abc import Hashable
from itertools import chain
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

PATIENCE = 64  # calls of `admit`: about as many decoding steps as a sentence takes


class Scheduler(Generic[Item]):
    """Items of many requests, waiting and running.

    Requests take turns, one item each. A request's first item overtakes the requests that wait for a turn, but only
    every second time. While a first item runs, items of other requests are not admitted, for at most PATIENCE calls
    of `admit`: so a short request gets its result soon.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._fresh: deque[Hashable] = deque()  # waiting requests none of whose items has run
        self._turns: deque[Hashable] = deque()  # all other waiting requests, in the order of their turns
        self._last_was_fresh = False  # the item that was admitted last was a first item
        self._running: dict[Item, Hashable] = {}
        self._first: dict[Item, Hashable] = {}  # the running items that are the first ones of their requests
        self._calls_since_turn = 0  # calls of `admit` since one has admitted an item that was not a first one
        self._widths: dict[Item, int] = {}  # of items that need more than one sequence
        self._seen: set[Hashable] = set()  # requests of which an item has run

    @property
    def waiting(self) -> int:
        """Return the number of waiting items."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> list[Item]:
        """Return the items that were admitted and are not finished."""
        return list(self._running)

    def shares(self) -> dict[Hashable, int]:
        """Return the number of sequences that each request has running."""
        shares: dict[Hashable, int] = {}
        for item, request in self._running.items():
            shares[request] = shares.get(request, 0) + self._width(item)
        return shares

    def submit(self, request: Hashable, item: Item, width: int = 1) -> None:
        """Add an item to the waiting ones of a request; it needs `width` sequences of the batch."""
        queue = self._waiting.setdefault(request, deque())
        if not queue:
            order = self._turns if request in self._seen else self._fresh
            order.append(request)
        queue.append(item)
        if width > 1:
            self._widths[item] = width

    def admit(self, free: int, max_items: int) -> list[Item]:
        """Choose at most `max_items` items for `free` sequences, and return them; from now on they count as running.

        An item that needs more sequences than are free keeps its turn, and the items after it wait too: otherwise it
        would starve.
        """
        admitted: list[Item] = []
        self._calls_since_turn += 1
        while len(admitted) < max_items and (request := self._next_request()) is not None:
            free -= self._width(self._waiting[request][0])
            if free < 0:
                break
            admitted.append(self._start_item(request))
        return admitted

    def _next_request(self) -> Hashable | None:
        """Return the waiting request whose item may run next; None if there is none."""
        turn = next((request for request in self._turns if self._may_join(request)), None)
        if self._fresh and (turn is None or not self._last_was_fresh):
            return self._fresh[0]
        return turn

    def _may_join(self, request: Hashable) -> bool:
        """Return whether an item of a request may run together with the first items that are running."""
        return self._calls_since_turn >= PATIENCE or all(owner == request for owner in self._first.values())

    def _start_item(self, request: Hashable) -> Item:
        """Move the next item of a request from the waiting to the running ones."""
        queue = self._waiting[request]
        item = queue.popleft()
        self._last_was_fresh = request not in self._seen
        if self._last_was_fresh:
            self._fresh.remove(request)
            self._first[item] = request
        else:
            self._turns.remove(request)
            self._calls_since_turn = 0
        self._seen.add(request)
        self._running[item] = request
        if queue:
            self._turns.append(request)
        else:
            del self._waiting[request]
        return item

    def _width(self, item: Item) -> int:
        return self._widths.get(item, 1)

    def finish(self, item: Item) -> bool:
        """Remove a running item. Return False if it was not running: cancelled meanwhile, or never admitted."""
        self._first.pop(item, None)
        self._widths.pop(item, None)
        return self._running.pop(item, None) is not None

    def requeue_running(self) -> None:
        """Let all running items wait again, before the items that are already waiting."""
        for item, request in reversed(self._running.items()):
            queue = self._waiting.setdefault(request, deque())
            if not queue:
                self._turns.appendleft(request)
            queue.appendleft(item)
        self._running.clear()
        self._first.clear()

    def drop_wider_than(self, sequences: int) -> list[Item]:
        """Remove and return the waiting items that need more than `sequences` sequences, which will never be free."""
        wide = [item for item in chain.from_iterable(self._waiting.values()) if self._width(item) > sequences]
        for request, queue in list(self._waiting.items()):
            self._waiting[request] = remaining = deque(item for item in queue if item not in wide)
            if not remaining:
                self._stop_waiting(request)
        for item in wide:
            del self._widths[item]
        return wide

    def cancel(self, request: Hashable) -> tuple[list[Item], list[Item]]:
        """Remove a request. Return its items that were waiting, and those that were running, for the engine to drop."""
        waiting = list(self._waiting.get(request, ()))
        for item in waiting:
            self._widths.pop(item, None)
        self._stop_waiting(request)
        self._seen.discard(request)
        running = [item for item, owner in self._running.items() if owner == request]
        for item in running:
            self.finish(item)
        return waiting, running

    def _stop_waiting(self, request: Hashable) -> None:
        self._waiting.pop(request, None)
        for order in (self._fresh, self._turns):
            if request in order:
                order.remove(request)
