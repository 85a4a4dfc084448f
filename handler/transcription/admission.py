"""Limit how many requests are open at once. Knows no request, no way in and no thread.

Whoever comes when there is no room is refused at once, as an HTTP client wants it, or waits, as a job of the queue can.
"""

import asyncio
from collections import deque
from typing import Protocol

from handler.errors import Overloaded

# So many requests may be open for each that may be in work: those that have waited STARVED_S seconds for more of their
# audio are not in work. Otherwise, a few clients that send a byte a minute would keep out all others.
OPEN_PER_PLACE, STARVED_S = 4, 1.0


class Work(Protocol):
    """What is done for a request."""

    @property
    def starved_s(self) -> float:
        """For how many seconds there has been nothing to do, because no more audio has arrived."""

    def abort(self) -> None:
        """End the work with an error. Any thread may call this."""


class Place:
    """The place of one request, from before its audio arrives until its `with` block ends."""

    def __init__(self, admission: "Admission") -> None:
        self.work: Work | None = None  # what is being done for the request, if anything is
        self.only_receives = False  # nothing will be done before the request has another place
        self._admission = admission

    @property
    def is_busy(self) -> bool:
        """Whether something is being done for the request."""
        return self.work is not None and not self._is_starved

    @property
    def is_occupied(self) -> bool:
        """Whether something is being done for the request, or soon will be."""
        return not self.only_receives and not self._is_starved

    @property
    def _is_starved(self) -> bool:
        return self.work is not None and self.work.starved_s >= STARVED_S

    def leave(self) -> None:
        """Give the place back. Only the first call has an effect."""
        self._admission.leave(self)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Admission:
    """Gives places to requests: `limit` to those in work, and OPEN_PER_PLACE times as many to all that are open.

    Use it in one event loop; only `places` may be read in any thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: set[Place] = set()
        self._waiting: deque[asyncio.Future[Place]] = deque()  # of those that wait, first come first
        self._timer: asyncio.TimerHandle | None = None  # set while some wait

    @property
    def places(self) -> tuple[Place, ...]:
        """The places that are taken."""
        return tuple(self._places)

    def enter(self) -> Place:
        """Return a place. Raises Overloaded if there is no room."""
        num_busy = sum(place.is_busy for place in self._places)
        if num_busy >= self._limit or len(self._places) >= OPEN_PER_PLACE * self._limit:
            raise Overloaded(f"expected at most {self._limit} requests at once (MAX_REQUESTS)")
        return self._take()

    async def wait(self) -> Place:
        """Wait until fewer than `limit` places are occupied, in the order of asking, and return one."""
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came together with the cancellation
                self.leave(turn.result())
            raise

    def leave(self, place: Place) -> None:
        """Give a place back, which may be given to one that waits."""
        self._places.discard(place)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give places to those that wait, as far as there is room, and look again later if some still wait."""
        while self._waiting and (self._waiting[0].done() or self._has_room()):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._take())
        if self._waiting and self._timer is None:  # a request whose audio stops coming tells nobody
            self._timer = asyncio.get_running_loop().call_later(STARVED_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._hand_out()

    def _has_room(self) -> bool:
        num_occupied = sum(place.is_occupied for place in self._places)
        return num_occupied < self._limit and len(self._places) < OPEN_PER_PLACE * self._limit

    def _take(self) -> Place:
        place = Place(self)
        self._places.add(place)
        return place
