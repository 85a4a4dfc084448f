"""Speak WebSocket on a connection: uvicorn's protocol, which counts among all connections and stops gracefully.

Knows no route.
"""

from asyncio import BaseTransport, TimerHandle
from typing import Any, ClassVar

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from local_server.protocol.connections import ConnectionRegistry

STOP = "asr_is_stopping"  # a key of a disconnect by which the application learns that the server stops
WRITE_STALL_S = 60.0  # seconds after which a client that reads nothing is disconnected


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `websocket_protocol` makes the class that can be used."""

    registry: ClassVar[ConnectionRegistry]
    _stall: TimerHandle | None = None  # set while the client does not read

    def connection_made(self, transport: BaseTransport) -> None:
        """Take over the connection of the request that asked for the WebSocket."""
        super().connection_made(transport)
        self.registry.add(self, self.transport.get_extra_info("socket").fileno())
        self.registry.mark_busy(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that belongs to the connection."""
        self.registry.discard(self)
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read the head of the request, or frames. Answer a head that cannot be read."""
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_text(self, event: Frame) -> None:
        """Take a message, or its first part."""
        self._note_life()
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Take a message, or its first part."""
        self._note_life()
        super().handle_bytes(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the client does not read the answers."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def _note_life(self) -> None:
        """Wait for no answer to a ping: who sends is there, and may read what comes later."""
        if self.pong_timer is not None:
            self.pong_timer.cancel()
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()

    def pause_writing(self) -> None:
        """Let the application wait, and the client not for ever."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(WRITE_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Let the application send."""
        self._end_stall()
        super().resume_writing()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says. A refusal completes the handshake, too."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """Give up a client that is silent. What is still to be sent to it is not waited for."""
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Tell the application that the server stops. It has the time of the graceful shutdown to end the session."""
        if self.handshake_complete and not self.close_sent:
            stop: Any = {"type": "websocket.disconnect", "code": 1012, STOP: True}
            self.queue.put_nowait(stop)
        else:
            super().shutdown()

    @property
    def is_answered(self) -> bool:
        """Whether the WebSocket is closed."""
        return bool(self.close_sent or self.transport.is_closing())

    @property
    def is_stalled(self) -> bool:
        """Whether the client does not read what is sent to it just now."""
        return not self.writable.is_set()

    def evict(self) -> None:
        """Close the connection in favour of another one."""
        self.transport.abort()


def websocket_protocol(registry: ConnectionRegistry) -> type[WebSocketProtocol]:
    """Return the class of WebSockets that `registry` keeps."""
    return type("RegisteredWebSocketProtocol", (WebSocketProtocol,), {"registry": registry})
