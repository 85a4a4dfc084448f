"""Carry the messages of one live session over one WebSocket, until either side ends it. Knows no protocol above that.

A connection that is cut leaves its session to be resumed. A server that stops lets the session complete its text.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from handler import logs
from handler.errors import AsrError, DeadlineExceeded, Internal
from handler.settings import Settings
from local_server.live.live_sessions import LiveSessions, Session
from local_server.live.outbox import Outbox
from local_server.protocol.websocket_protocol import STOP

NORMAL, GOING_AWAY, INTERNAL_ERROR = 1000, 1001, 1011  # codes of RFC 6455, section 7.4
FINISH_S = 60.0  # for the text of a session whose time is over
LAST_MESSAGES_S = 10.0  # for a client to read the last messages


class End(Enum):
    """Why a connection ends, with the code that the server closes it with, or None if it is closed already."""

    CLOSED = ("closed by the client", None)
    CUT = ("cut", None)
    TAKEN_OVER = ("taken over by another connection", GOING_AWAY)
    FINISHED = ("finished, as the client asked", NORMAL)
    IDLE = ("idle", GOING_AWAY)
    EXPIRED = ("at its time limit", GOING_AWAY)
    STOPPING = ("ended by the stop of the server", GOING_AWAY)
    CRASHED = ("ended by a fault of the server", INTERNAL_ERROR)

    def __init__(self, meaning: str, code: int | None) -> None:
        self.meaning = meaning
        self.code = code


_RESUMABLE = (End.CUT, End.TAKEN_OVER)


class ConnectedSession(Session, Protocol):
    """What a connection needs to know of its session."""

    expires_at: float  # of time.time
    outbox: Outbox
    is_finished: bool  # whether the client has asked for the end
    is_resumable: bool

    async def receive(self, message: Message) -> None:
        """Do what a message of the client asks for."""

    async def finish(self) -> None:
        """Complete the text of what has arrived."""

    def tell_error(self, error: AsrError) -> None:
        """Tell the client of an error that no message of its own has caused."""

    def tell_end(self, end: End) -> None:
        """Tell the client why its session ends."""


async def serve_session(
    websocket: WebSocket, session: ConnectedSession, sessions: LiveSessions, settings: Settings
) -> End:
    """Carry messages both ways until the connection ends, and return why."""
    interrupted = sessions.connect(session)
    sender = asyncio.create_task(_send_all(websocket, session.outbox))
    end = End.CUT
    try:
        end = await _receive_all(websocket, session, sender, interrupted, settings.session_idle_s)
        if end.code is not None and end is not End.TAKEN_OVER:
            await _complete(session, end)
            session.outbox.end()
            await asyncio.wait({sender}, timeout=LAST_MESSAGES_S)
    finally:
        sender.cancel()
        await asyncio.wait({sender})  # it may put a message back, for the next connection
        if end in _RESUMABLE and session.is_resumable:
            sessions.cut(session)
        else:
            sessions.end(session.id)
    if end.code is not None:
        with suppress(RuntimeError, WebSocketDisconnect):  # the client has gone meanwhile
            await websocket.close(end.code, end.meaning)
    return end


async def _complete(session: ConnectedSession, end: End) -> None:
    """Complete the text of a session, and tell its client why it ends."""
    if end is not End.CRASHED:
        try:
            async with asyncio.timeout(FINISH_S):
                await session.finish()
        except TimeoutError:
            session.tell_error(DeadlineExceeded(f"the text was not complete after {FINISH_S:g} s: some is missing"))
    session.tell_end(end)


async def _receive_all(
    websocket: WebSocket,
    session: ConnectedSession,
    sender: "asyncio.Task[None]",
    interrupted: "asyncio.Future[None]",
    idle_s: float,
) -> End:
    """Pass on what the client sends, and return why no more comes."""
    while not session.is_finished:
        left_s = session.expires_at - time.time()
        if left_s <= 0:
            return End.EXPIRED
        message = await _first(websocket.receive(), {interrupted}, min(idle_s, left_s))
        if interrupted.done():
            return End.TAKEN_OVER
        if message is None:
            return End.EXPIRED if left_s <= idle_s else End.IDLE
        if message["type"] == "websocket.disconnect":
            return _end_of(message)
        try:
            done = await _first(_receive(session, message), {interrupted, sender}, left_s)
        except Exception as exc:
            logs.error("session_crashed", exc)
            session.tell_error(Internal(f"a fault of this server: {type(exc).__name__}"))
            return End.CRASHED
        if interrupted.done():
            return End.TAKEN_OVER
        if done is None:
            return End.CUT if sender.done() else End.EXPIRED
    return End.FINISHED


async def _receive(session: ConnectedSession, message: Message) -> bool:
    await session.outbox.wait_for_room()
    await session.receive(message)
    return True


async def _first(work: Coroutine[Any, Any, Any], others: "set[Any]", limit_s: float) -> Any:
    """Return the result of some work, or None if something else is done before, or the time is over."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, *others}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _end_of(message: Message) -> End:
    """Return what a disconnect means. Only that by a frame of the client has a reason, if an empty one."""
    if message.get(STOP):
        return End.STOPPING
    return End.CLOSED if "reason" in message else End.CUT


async def _send_all(websocket: WebSocket, outbox: Outbox) -> None:
    """Send messages until the last one, or until the client has gone."""
    while (message := await outbox.take()) is not None:
        try:
            await websocket.send_text(message)
        except (RuntimeError, WebSocketDisconnect):
            outbox.put_back()
            return
        except asyncio.CancelledError:
            outbox.put_back()
            raise
