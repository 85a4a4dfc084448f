"""`python -m local_server`: the HTTP server on HOST and PORT, and on PORT_HEALTH where that is another one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from handler import logs
from handler.exit_codes import CANNOT_START
from handler.settings import Settings, SettingsError
from handler.startup.bootstrap import build
from local_server.lifespan import Build, LifespanApp
from local_server.state import ServerState

if TYPE_CHECKING:  # a starting process has no use for starlette
    from starlette.types import ASGIApp


def create_app(settings: Settings, build: Build, on_fault: Callable[[], None] = lambda: None) -> LifespanApp:
    """The whole server as an ASGI application."""
    return LifespanApp(ServerState(settings), build, _make_app, on_fault)


def _make_app(house: ServerState) -> ASGIApp:
    from local_server.app import make_app

    return make_app(house)


def main() -> None:
    """Serve until the process is told to end."""
    try:
        settings = Settings.from_env(os.environ)
        ports = {settings.port, settings.port_health} - {None}
        sockets = [_listen(settings.host, port) for port in ports if port is not None]
    except (SettingsError, OSError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    logs.configure(settings.log_level, "uvicorn.error")
    failed = False

    def on_fault() -> None:
        nonlocal failed
        failed = server.should_exit = True

    app = create_app(settings, build, on_fault)
    drain_s = settings.drain_timeout_s
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=drain_s)
    server = uvicorn.Server(config)
    logs.info("listening", addresses=[list(listener.getsockname()[:2]) for listener in sockets])
    for number in (signal.SIGTERM, signal.SIGINT):  # the server drains, then raises them again: an end as asked is no failure
        signal.signal(number, lambda *_: None)
    server.run(sockets=sockets)
    if failed:
        sys.exit(CANNOT_START)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; for `*` on every address of both families, where the machine has both."""
    if host == "*":
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


if __name__ == "__main__":
    main()
