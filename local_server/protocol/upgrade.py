"""Make WebSockets of connections without importing what speaks them before it is needed. Knows no frame."""

import asyncio
from collections.abc import Callable
from typing import Any

from local_server.protocol.connections import ConnectionRegistry

MAX_MESSAGE_BYTES = 22 * 1024**2  # 15 MiB in base64, and what is around it


def websocket_maker(registry: ConnectionRegistry) -> Callable[..., asyncio.Protocol]:
    """Return a function that makes a WebSocket that `registry` keeps, for uvicorn's option `ws`."""

    def make(**arguments: Any) -> asyncio.Protocol:
        from local_server.protocol.websocket_protocol import websocket_protocol  # whose import takes a moment

        return websocket_protocol(registry)(**arguments)

    return make
