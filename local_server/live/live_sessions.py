"""Hold all live sessions of a server: limit how many there are, and keep those whose connection was cut for a while.

Knows no protocol.
"""

import asyncio
from typing import Protocol, TypeVar

from handler import logs
from handler.errors import Overloaded
from handler.live.latency import LiveLatency
from handler.settings import Settings


class Session(Protocol):
    """What is held of a session."""

    id: str

    def close(self) -> None:
        """Stop all work of the session."""


def log_name(session: Session) -> str:
    """Return what the log calls a session: a part of its id, since the whole one suffices to resume it."""
    return session.id[:13]


AnySession = TypeVar("AnySession", bound=Session)


class LiveSessions:
    """All sessions of one server, connected or cut. Use it in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.latency = LiveLatency()
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._cut: dict[str, asyncio.TimerHandle] = {}  # with the timer that ends each
        self._connected: dict[str, asyncio.Future[None]] = {}  # done when a connection has to let its session go
        self._changed = asyncio.Event()

    @property
    def num_open(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def check_room(self) -> None:
        """Raise Overloaded if there is no room for another session. A cut one makes room if there is one."""
        if len(self._sessions) < self._settings.max_sessions:
            return
        if not self._cut:
            raise Overloaded(f"expected at most {self._settings.max_sessions} live sessions at once (MAX_SESSIONS)")
        self.end(next(iter(self._cut)))  # that was cut first

    def add(self, session: Session) -> None:
        """Hold a new session."""
        self._sessions[session.id] = session

    def connect(self, session: Session) -> "asyncio.Future[None]":
        """Record that a session has a connection. Return what is done when the connection has to let it go."""
        self._connected[session.id] = asyncio.get_running_loop().create_future()
        return self._connected[session.id]

    def cut(self, session: Session) -> None:
        """Keep a session that has lost its connection for SESSION_RESUME_S."""
        self._connected.pop(session.id, None)
        self._changed.set()
        seconds = self._settings.session_resume_s
        if not seconds:
            self.end(session.id)
        elif session.id in self._sessions:
            self._cut[session.id] = asyncio.get_running_loop().call_later(seconds, self.end, session.id)

    async def resume(self, session_id: str, kind: type[AnySession]) -> AnySession | None:
        """Return a session that has a new connection. Return None if there is none with this id.

        A client may come again before the server has noticed that the old connection is lost, which is then ended.
        """
        session = self._sessions.get(session_id)
        if not isinstance(session, kind):
            return None
        while (connection := self._connected.get(session_id)) is not None:
            if not connection.done():
                connection.set_result(None)
            self._changed.clear()
            await self._changed.wait()
        if session_id not in self._cut:
            return None
        self._cut.pop(session_id).cancel()
        return session

    def end(self, session_id: str) -> None:
        """Close a session, and forget it."""
        self._connected.pop(session_id, None)
        self._changed.set()
        if (timer := self._cut.pop(session_id, None)) is not None:
            timer.cancel()
        if (session := self._sessions.pop(session_id, None)) is not None:
            session.close()
            logs.info("session_ended", session=log_name(session))

    def close(self) -> None:
        """End all sessions."""
        for session_id in list(self._sessions):
            self.end(session_id)
