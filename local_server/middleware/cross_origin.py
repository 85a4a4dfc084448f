"""Refuse forms and WebSockets of pages of other origins. Pure ASGI. Knows no key and no route.

A browser asks for permission (CORS) before most requests to another origin, but a page may send a form without asking.
It cannot read the response, but the server would do the work. Clients other than browsers send none of the headers that
are checked here. For a WebSocket, a browser never asks; the page can even read what comes. One that shows a key is no
threat: a browser adds none by itself. Sources: RFC 6455, section 10.2; Fetch, 'CORS-safelisted request-header'; W3C,
Fetch Metadata.
"""

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.errors import InvalidRequest
from handler.validators import short_repr
from local_server.errors import send_error

_UNASKED_TYPES = frozenset(  # content types for which a browser does not ask; a body without a type is one, too
    {b"", b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"}
)
_OWN_SITES = frozenset({b"same-origin", b"none"})  # values of Sec-Fetch-Site; none: the user typed the address


class CrossOriginMiddleware:
    """Passes on no POST of a page of another origin for which the browser did not ask, unless `origins` names it.

    Nor a WebSocket, unless keys are needed (`has_keys`).
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], *, has_keys: bool) -> None:
        self._app = app
        self._has_keys = has_keys
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or one WebSocket."""
        if scope["type"] == "websocket":
            is_allowed = self._has_keys or self._has_own_origin(scope)
        else:
            is_allowed = scope["method"] != "POST" or self._is_allowed(scope)
        if is_allowed:
            await self._app(scope, receive, send)
            return
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        kind = "a WebSocket" if scope["type"] == "websocket" else "a form"
        expected = f"{kind} from a page of this server, or from an origin in CORS_ORIGINS"
        await send_error(
            InvalidRequest(f"expected {expected}; got one from {short_repr(origin)}"), scope, receive, send
        )

    def _is_allowed(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if media_type not in _UNASKED_TYPES or b"*" in self._origins or origin in self._origins:
            return True
        if site is not None:
            return site in _OWN_SITES
        # Browsers send no Sec-Fetch-Site over plain HTTP, but they do send the origin of a form's page.
        return self._has_own_origin(scope)

    def _has_own_origin(self, scope: Scope) -> bool:
        """Return whether a request comes from a page of this server or of `origins`, or from no page."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or b"*" in self._origins or origin in self._origins:
            return True
        return bool(origin.partition(b"://")[2] == headers.get(b"host"))
