"""Speak WebSocket on a connection: uvicorn's protocol, which counts among all connections and stops gracefully.

Knows no route.
"""

from asyncio import BaseTransport
from typing import ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from local_server.protocol.connections import ConnectionRegistry

RESTART = 1012  # code of a disconnect by which the application learns that the server stops
MAX_MESSAGE_BYTES = 22 * 1024**2  # 15 MiB in base64, and what is around it


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `websocket_protocol` makes the class that uvicorn can use."""

    registry: ClassVar[ConnectionRegistry]

    def connection_made(self, transport: BaseTransport) -> None:
        """Take over the connection of the request that asked for the WebSocket."""
        super().connection_made(transport)
        self.registry.add(self, self.transport.get_extra_info("socket").fileno())
        self.registry.mark_busy(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that belongs to the connection."""
        self.registry.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read frames. Whoever sends is there, also if it reads nothing now, and so cannot answer pings."""
        if self.pong_timer is not None:
            self.pong_timer.cancel()
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Give up a client that is silent. What is still to be sent to it is not waited for."""
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Tell the application that the server stops. It has the time of the graceful shutdown to end the session."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": RESTART})
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
    """Return the class of WebSockets that `registry` keeps, for uvicorn's option `ws`."""
    return type("RegisteredWebSocketProtocol", (WebSocketProtocol,), {"registry": registry})
