"""Refuse requests for other hosts than this server's. Pure ASGI. Knows no key and no route but `/hc`.

A page can point its own host name at this server (DNS rebinding). To a browser, the page and the server are then of one
origin, and only the Host header still shows the name of the page.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.errors import InvalidRequest
from handler.validators import short_repr
from local_server.errors import send_error

HEALTH_PATH = "/hc"  # platforms request it by the address of the machine
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?", re.ASCII)


class AllowedHostsMiddleware:
    """Passes on only requests whose host is one of `hosts`.

    A host has no port. `*.example.com` stands for all names that end with `.example.com`, and `*` for every host.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._suffixes = tuple(host[1:] for host in self._hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or one WebSocket."""
        if scope["path"] == HEALTH_PATH or "*" in self._hosts:
            await self._app(scope, receive, send)
            return
        values = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
        if len(values) == 1 and self._is_allowed(values[0].lower()):
            await self._app(scope, receive, send)
            return
        received = short_repr(values[0]) if len(values) == 1 else f"{len(values)} of them"
        refusal = InvalidRequest(f"expected a Host header with one of the names in ALLOWED_HOSTS; got {received}")
        await send_error(refusal, scope, receive, send)

    def _is_allowed(self, value: str) -> bool:
        match = _HOST.fullmatch(value)
        if match is None:
            return False
        host = match[1].removesuffix(".")  # a name may end with a point, which stands for the root
        return host in self._hosts or host.endswith(self._suffixes)
