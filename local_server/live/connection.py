"""Carry the messages of one live session over one WebSocket, until either side ends it. Knows no protocol above that.

A connection that is cut leaves its session to be resumed. A server that stops lets the session complete its text.
"""

import asyncio
import time
from contextlib import suppress
from enum import Enum
from typing import Protocol

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from handler.settings import Settings
from local_server.live.live_sessions import LiveSessions
from local_server.live.outbox import Outbox

NORMAL, GOING_AWAY, RESTART = 1000, 1001, 1012  # codes of RFC 6455, section 7.4, and of its registry
FINISH_S = 10.0  # for the text of a session whose time is over


class End(Enum):
    """Why a connection ends, with the code that the server closes it with, or None if the client has closed it."""

    CLOSED = ("closed by the client", None)
    CUT = ("cut", None)
    FINISHED = ("finished, as the client asked", NORMAL)
    IDLE = ("idle", GOING_AWAY)
    EXPIRED = ("at its time limit", GOING_AWAY)
    STOPPING = ("ended by the stop of the server", GOING_AWAY)

    def __init__(self, meaning: str, code: int | None) -> None:
        self.meaning = meaning
        self.code = code


class ConnectedSession(Protocol):
    """What a connection needs to know of its session."""

    id: str
    expires_at: float  # of time.time
    outbox: Outbox
    is_finished: bool  # whether the client has asked for the end
    is_resumable: bool

    async def receive(self, message: Message) -> None:
        """Do what a message of the client asks for."""

    async def finish(self) -> None:
        """Complete the text of what has arrived."""

    def tell_end(self, end: End) -> None:
        """Tell the client why its session ends."""

    def close(self) -> None:
        """Stop all work."""


async def serve_session(
    websocket: WebSocket, session: ConnectedSession, sessions: LiveSessions, settings: Settings
) -> End:
    """Carry messages both ways until the connection ends, and return why."""
    sender = asyncio.create_task(_send_all(websocket, session.outbox))
    end = End.CUT
    try:
        end = await _receive_all(websocket, session, settings.session_idle_s)
        if end.code is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_S):
                    await session.finish()
            session.tell_end(end)
            session.outbox.end()
            await sender
            with suppress(RuntimeError, WebSocketDisconnect):  # the client has gone meanwhile
                await websocket.close(end.code, end.meaning)
    finally:
        sender.cancel()
        if end is End.CUT and session.is_resumable:
            sessions.cut(session)
        else:
            sessions.end(session.id)
    return end


async def _receive_all(websocket: WebSocket, session: ConnectedSession, idle_s: float) -> End:
    """Pass on what the client sends, and return why no more comes."""
    while not session.is_finished:
        left_s = session.expires_at - time.time()
        try:
            async with asyncio.timeout(min(idle_s, left_s)):
                message = await websocket.receive()
        except TimeoutError:
            return End.EXPIRED if left_s <= idle_s else End.IDLE
        if message["type"] == "websocket.disconnect":
            code = message.get("code")
            if code == RESTART:
                return End.STOPPING
            return End.CLOSED if code in (NORMAL, GOING_AWAY) else End.CUT
        await session.receive(message)
    return End.FINISHED


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
