"""Run the HTTP server: `python -m local_server`.

The server listens on HOST and PORT, and also on PORT_HEALTH if that is another port.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from handler import logs
from handler.exit_codes import CANNOT_START
from handler.settings import Settings, SettingsError
from handler.startup.bootstrap import build
from handler.startup.process_tuning import fast_imports, freeze_garbage_collector
from handler.transcription.pipeline import Pipeline
from local_server.lifespan import Build, LifespanApp
from local_server.protocol.connections import (
    ConnectionRegistry,
    connection_limit,
    highest_descriptor,
    raise_descriptor_limit,
)
from local_server.protocol.http_protocol import HEAD_S, http_protocol
from local_server.protocol.upgrade import MAX_MESSAGE_BYTES, websocket_maker
from local_server.state import ServerState

if TYPE_CHECKING:  # importing starlette would slow down the start
    from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """A server that calls `on_stop` when a signal asks it to stop, which is before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._on_stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what runs, and stop."""
        logs.info("stopping", open_connections=len(self.server_state.connections))
        await super().shutdown(sockets)


def create_app(settings: Settings, build: Build, on_fault: Callable[[int], None] = lambda _: None) -> LifespanApp:
    """Return the server as an ASGI application.

    The application calls `build` to make the pipeline, and `on_fault` if the pipeline cannot be built.
    """
    return LifespanApp(ServerState(settings), build, _make_app, on_fault)


def _make_app(state: ServerState) -> ASGIApp:
    from local_server.app import make_app

    return make_app(state)


def main() -> None:
    """Serve until SIGTERM or SIGINT.

    Exits with CANNOT_START if the settings, a port or the model cannot be used, and with DECODING_LOST if audio can no
    longer be decoded.
    """
    descriptors = raise_descriptor_limit()
    try:
        settings = Settings.from_env(os.environ)
        ports = {settings.port, settings.port_health} - {None}
        sockets = [_listen(settings.host, port) for port in ports if port is not None]
    except (SettingsError, OSError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    logs.configure(settings.log_level, "uvicorn.error")
    exit_code = 0

    def on_fault(code: int) -> None:
        nonlocal exit_code
        exit_code, server.should_exit = code, True
        app.note_stop()

    app = create_app(settings, lambda _: _start_pipeline(settings, app), on_fault)
    limit = connection_limit(descriptors, settings.max_requests)
    registry = ConnectionRegistry(limit, highest_descriptor(descriptors))
    server = _Server(uvicorn_config(app, registry, settings.drain_timeout_s), app.note_stop)
    addresses = [list(listener.getsockname()[:2]) for listener in sockets]
    logs.info("listening", addresses=addresses, connections=registry.limit)
    # On these signals uvicorn drains, and then raises them again. They are ignored then, so that the exit code is 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=sockets)
    sys.exit(exit_code)


def _start_pipeline(settings: Settings, app: LifespanApp) -> Pipeline:
    """Build the pipeline, and create all routes of `app` while the weights are loaded.

    Imports and garbage collection of this process, which does nothing else, are tuned for that.
    """
    with fast_imports():
        pipeline = build(settings, during_load=app.prepare_early)
        freeze_garbage_collector()
    return pipeline


def uvicorn_config(
    app: ASGIApp, registry: ConnectionRegistry, drain_s: int | None = None, head_s: float = HEAD_S
) -> uvicorn.Config:
    """Return how uvicorn serves the application: on connections that `registry` keeps.

    A server that stops gives running requests `drain_s` seconds, or all the time that they need. A client has `head_s`
    seconds to send the head of a request.
    """
    return uvicorn.Config(
        app,
        http=http_protocol(registry, head_s),
        ws=websocket_maker(registry),  # type: ignore[arg-type]
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # audio hardly shrinks
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_s,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. The host `*` stands for all addresses, including IPv6 if the machine has it."""
    if host == "*":
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


if __name__ == "__main__":
    main()
