"""The choice of the waiting item that runs next, such that requests share the device fairly.

An item is a piece of work of a request. The scheduler does not look into items. Knows no tensor, no audio and no clock.
"""

from collections import deque
from collections.abc import Hashable, Mapping
from itertools import chain
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
MAX_URGENT_RUN = 4  # urgent items in a row while another item waits


class Scheduler(Generic[Item]):
    """Holds the waiting and running items of many requests, and chooses the items to run next.

    No sequence stays free while an item waits that fits. The next item is that of the request with the fewest running
    sequences, and among equals of the one that has waited for its turn longest, so that no request gets more than its
    share while another one waits. To give a short request its result soon, the first item of a request goes before all
    others, unless the item admitted just before was also the first of its request.

    Items of urgent requests go before all of these, but never more than MAX_URGENT_RUN in a row while another waits for
    which there is room. Sequences that are reserved for them may stay free.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._fresh: deque[Hashable] = deque()  # waiting requests of which no item has run yet
        self._turns: deque[Hashable] = deque()  # all other waiting requests, in the order of their turns
        self._urgent: deque[Hashable] = deque()  # waiting requests that are urgent
        self._urgent_requests: set[Hashable] = set()
        self._urgent_run = 0  # urgent items admitted in a row
        self._last_was_fresh = False  # whether the item admitted last was the first item of its request
        self._running: dict[Item, Hashable] = {}
        self._widths: dict[Item, int] = {}  # sequences of each item that needs more than one
        self._seen: set[Hashable] = set()  # requests of which an item has been admitted

    @property
    def waiting(self) -> int:
        """Return the number of waiting items of all requests."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> list[Item]:
        """Return the items that were admitted and are neither finished nor cancelled."""
        return list(self._running)

    def shares(self) -> dict[Hashable, int]:
        """Return the number of running sequences of each request that has any."""
        shares: dict[Hashable, int] = {}
        for item, request in self._running.items():
            shares[request] = shares.get(request, 0) + self._width(item)
        return shares

    def submit(self, request: Hashable, item: Item, width: int = 1, *, is_urgent: bool = False) -> None:
        """Add an item to the waiting items of a request. A running item takes `width` sequences of the batch.

        A request of which one item was urgent stays so until it is cancelled.
        """
        if is_urgent:
            self._urgent_requests.add(request)
        queue = self._waiting.setdefault(request, deque())
        if not queue:
            self._order_of(request).append(request)
        queue.append(item)
        if width > 1:
            self._widths[item] = width

    def admit(self, free: int, max_items: int, reserve: int = 0) -> list[Item]:
        """Mark waiting items as running, and return them: at most `max_items`, with at most `free` sequences in all.

        While a request is urgent, `reserve` sequences in all are for urgent ones. An item that needs more sequences
        than are free keeps its turn. The items after it then wait as well, because narrower items could otherwise
        overtake it forever.
        """
        admitted: list[Item] = []
        if free < 1 or not self._waiting:  # as after most steps
            return admitted
        shares = self.shares()
        while len(admitted) < max_items and (request := self._next_request(shares)) is not None:
            width = self._width(self._waiting[request][0])
            if not self._fits(request, width, free, reserve, shares):
                if request in self._urgent_requests or not self._urgent:
                    break
                request = self._next_urgent(shares)  # for which there may be room in the reserve
                width = self._width(self._waiting[request][0])
                if width > free:
                    break
            free -= width
            shares[request] = shares.get(request, 0) + width
            admitted.append(self._start_item(request))
        return admitted

    def _fits(self, request: Hashable, width: int, free: int, reserve: int, shares: Mapping[Hashable, int]) -> bool:
        """Return whether there is room for an item. One that is not urgent may exceed its room if no other one runs."""
        if not self._urgent_requests or request in self._urgent_requests:
            return width <= free
        num_urgent = sum(shares.get(urgent, 0) for urgent in self._urgent_requests)
        if num_urgent == sum(shares.values()):
            return width <= free
        return width <= free - max(0, reserve - num_urgent)

    def _next_urgent(self, shares: Mapping[Hashable, int]) -> Hashable:
        return min(self._urgent, key=lambda request: shares.get(request, 0))

    def _next_request(self, shares: Mapping[Hashable, int]) -> Hashable | None:
        """Return the request whose item runs next, or None if none waits. `shares` holds the sequences of each."""
        if self._urgent and (self._urgent_run < MAX_URGENT_RUN or not (self._fresh or self._turns)):
            return self._next_urgent(shares)
        if self._fresh and not (self._turns and self._last_was_fresh):
            return self._fresh[0]
        return min(self._turns, key=lambda request: shares.get(request, 0), default=None)

    def _start_item(self, request: Hashable) -> Item:
        """Move the next item of a request from its waiting items to the running ones, and return the item."""
        queue = self._waiting[request]
        item = queue.popleft()
        is_urgent = request in self._urgent_requests
        self._urgent_run = self._urgent_run + 1 if is_urgent else 0
        if not is_urgent:
            self._last_was_fresh = request not in self._seen
        self._order_of(request).remove(request)
        self._seen.add(request)
        self._running[item] = request
        if queue:
            self._order_of(request).append(request)
        else:
            del self._waiting[request]
        return item

    def _order_of(self, request: Hashable) -> deque[Hashable]:
        """Return the order in which a request waits, or would wait."""
        if request in self._urgent_requests:
            return self._urgent
        return self._turns if request in self._seen else self._fresh

    def _width(self, item: Item) -> int:
        return self._widths.get(item, 1)

    def finish(self, item: Item) -> bool:
        """Remove a running item, and return True. Return False if the item was cancelled or never admitted."""
        self._widths.pop(item, None)
        return self._running.pop(item, None) is not None

    def requeue_running(self) -> None:
        """Move all running items back to the front of the queues of their requests."""
        for item, request in reversed(self._running.items()):
            queue = self._waiting.setdefault(request, deque())
            if not queue:
                self._order_of(request).appendleft(request)
            queue.appendleft(item)
        self._running.clear()

    def drop_wider_than(self, sequences: int) -> list[Item]:
        """Remove and return the waiting items that need more than `sequences` sequences.

        The caller passes the size of the whole batch, so such items could never run.
        """
        wide = [item for item in chain.from_iterable(self._waiting.values()) if self._width(item) > sequences]
        for request, queue in list(self._waiting.items()):
            self._waiting[request] = remaining = deque(item for item in queue if item not in wide)
            if not remaining:
                self._stop_waiting(request)
        for item in wide:
            del self._widths[item]
        return wide

    def cancel(self, request: Hashable) -> tuple[list[Item], list[Item]]:
        """Remove a request, and return the items that were waiting and the items that were running.

        The caller has to remove the running items from the engine.
        """
        waiting = list(self._waiting.get(request, ()))
        for item in waiting:
            self._widths.pop(item, None)
        self._stop_waiting(request)
        self._seen.discard(request)
        self._urgent_requests.discard(request)
        running = [item for item, owner in self._running.items() if owner == request]
        for item in running:
            self.finish(item)
        return waiting, running

    def _stop_waiting(self, request: Hashable) -> None:
        self._waiting.pop(request, None)
        for order in (self._urgent, self._fresh, self._turns):
            if request in order:
                order.remove(request)
