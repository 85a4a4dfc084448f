"""Keep the events that are to be sent to a client, and the last ones that were. Knows no connection."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT = 1024  # events that were sent, so that a client that lost its connection can have them again
MAX_UNSENT = 4096  # events that a client has not read; no more audio is taken from it then


class Outbox:
    """The events of one session, numbered from 1. One connection at a time takes them."""

    def __init__(self) -> None:
        self._events: deque[str] = deque()
        self._first = 1  # number of the first event that is held
        self._next = 1  # number of the first event that is not taken yet
        self._changed = asyncio.Event()

    @property
    def num_unsent(self) -> int:
        """How many events are not taken yet."""
        return self._first + len(self._events) - self._next

    def add(self, content: Mapping[str, Any]) -> None:
        """Add an event, and give it an id."""
        number = self._first + len(self._events)
        self._events.append(json.dumps({**content, "event_id": f"event_{number}"}))
        self._changed.set()

    async def take(self) -> str:
        """Wait for the next event, and return it."""
        while not self.num_unsent:
            self._changed.clear()
            await self._changed.wait()
        event = self._events[self._next - self._first]
        self._next += 1
        while self._next - self._first > KEPT:
            self._events.popleft()
            self._first += 1
        self._changed.set()
        return event

    async def wait_for_room(self) -> None:
        """Wait until fewer than MAX_UNSENT events are not taken."""
        while self.num_unsent >= MAX_UNSENT:
            self._changed.clear()
            await self._changed.wait()

    def rewind(self, event_id: str) -> bool:
        """Let all events behind one be taken again. Return False if they are not held any more."""
        number = event_id.removeprefix("event_")
        if not number.isdecimal() or not self._first <= int(number) + 1 <= self._next:
            return False
        self._next = int(number) + 1
        self._changed.set()
        return True
