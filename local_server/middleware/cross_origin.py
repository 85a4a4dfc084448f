"""Refuse forms that pages of other origins send. Pure ASGI. Knows no key and no route.

A browser asks for permission (CORS) before most requests to another origin, but a page may send a form without asking.
It cannot read the response, but the server would do the work. Clients other than browsers send none of the headers that
are checked here. Source: Fetch, 'CORS-safelisted request-header'; W3C, Fetch Metadata.
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
    """Passes on no POST of a page of another origin for which the browser did not ask, unless `origins` names it."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        expected = "a form from a page of this server, or from an origin in CORS_ORIGINS"
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
        return origin is None or origin.partition(b"://")[2] == headers.get(b"host")
