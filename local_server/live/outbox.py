"""Keep the messages that are to be sent to a client, and the last ones that were. Knows no connection."""

import asyncio
from collections import deque

KEPT, KEPT_CHARS = 1024, 2**20  # of what was sent, so that a client that lost its connection can have it again
MAX_UNSENT, MAX_UNSENT_CHARS = 4096, 2**22  # that a client has not read; nothing more is taken from it then


class Outbox:
    """The messages of one session, numbered from 1. One connection at a time takes them."""

    def __init__(self) -> None:
        self._messages: deque[str] = deque()
        self._first = 1  # number of the first message that is held
        self._next = 1  # number of the first message that is not taken yet
        self._chars = 0  # of all that are held
        self._unsent_chars = 0
        self._has_ended = False
        self._changed = asyncio.Event()

    @property
    def next_number(self) -> int:
        """The number of the next message that is added."""
        return self._first + len(self._messages)

    @property
    def last_taken(self) -> int:
        """The number of the last message that was taken, or 0."""
        return self._next - 1

    def add(self, message: str) -> None:
        """Add a message."""
        self._messages.append(message)
        self._chars += len(message)
        self._unsent_chars += len(message)
        self._changed.set()

    def end(self) -> None:
        """Record that no more messages will be added."""
        self._has_ended = True
        self._changed.set()

    async def take(self) -> str | None:
        """Wait for the next message, and return it. Return None after the last one."""
        while self._next == self.next_number:
            if self._has_ended:
                return None
            await self._wait()
        message = self._messages[self._next - self._first]
        self._next += 1
        self._unsent_chars -= len(message)
        while self._next - self._first > KEPT or (
            self._chars - self._unsent_chars > KEPT_CHARS and self._first < self._next - 1
        ):
            self._chars -= len(self._messages.popleft())
            self._first += 1
        self._changed.set()
        return message

    async def wait_for_room(self) -> None:
        """Wait until not too much waits to be taken."""
        while self.next_number - self._next >= MAX_UNSENT or self._unsent_chars >= MAX_UNSENT_CHARS:
            await self._wait()

    def rewind(self, number: int) -> bool:
        """Let all messages behind one be taken again. Return False if they are not held any more."""
        if not self._first <= number + 1 <= self._next:
            return False
        again = (self._messages[index] for index in range(number + 1 - self._first, self._next - self._first))
        self._unsent_chars += sum(map(len, again))
        self._next = number + 1
        self._changed.set()
        return True

    def put_back(self) -> None:
        """Let the last message that was taken be taken again."""
        self.rewind(self._next - 2)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
