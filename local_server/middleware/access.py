"""Give each request an id, check its API key, and record it in the log and the metrics.

This is pure ASGI, so streamed responses are passed on piece by piece.
"""

import hmac
import re
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler import logs
from handler.errors import Unauthorized
from local_server.errors import send_error
from local_server.live.client_secrets import ClientSecrets
from local_server.live.keys import key_of
from local_server.metrics import Metrics
from local_server.middleware.key_failures import KeyFailures

PUBLIC_PATHS = frozenset({"/", "/hc", "/metrics"})  # no key is needed for these and for the page's files
PAGE_PREFIX = "/page/"
UNLOGGED_PATHS = frozenset({"/hc", "/metrics"})  # monitors request them all the time
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_NO_KEY = "expected one of API_KEY, as Authorization: Bearer, Authorization: Token or X-API-Key"
_REFUSED = 403  # what uvicorn answers if an application closes a WebSocket that it has not accepted
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class AccessMiddleware:
    """Gives each request an id, checks its API key, and logs and counts its response."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], metrics: Metrics, client_secrets: ClientSecrets | None = None
    ) -> None:
        """Wrap `app`. A WebSocket may also be opened with one of `client_secrets`."""
        self._app = app
        self._client_secrets = client_secrets or ClientSecrets()
        self._keys = [key.encode() for key in keys]
        self._metrics = metrics
        self._failures = KeyFailures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request or one WebSocket."""
        headers = {name.lower(): value for name, value in reversed(scope["headers"])}  # the first of a name counts
        request_id = _request_id(headers)
        scope["asr_request_id"] = request_id
        status = 0
        start = last_send = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, last_send
            if message["type"] in _STARTS:
                status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif message["type"] == "websocket.close":
                status = status or _REFUSED
            last_send = time.perf_counter()
            await send(message)

        try:
            if self._is_public(scope) or self._has_key(scope, headers):
                await self._app(scope, receive, send_with_id)
            else:
                await self._failures.delay(_client_address(scope))
                refusal = Unauthorized(_NO_KEY)
                await send_error(refusal, scope, receive, send_with_id)
        finally:
            end = last_send if status else time.perf_counter()
            self._record(scope, status, end - start)

    def _is_public(self, scope: Scope) -> bool:
        path = scope["path"]
        return not self._keys or path in PUBLIC_PATHS or path.startswith(PAGE_PREFIX)

    def _has_key(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        candidate = key_of(headers, scope.get("subprotocols", ()))
        if scope["type"] == "websocket" and self._client_secrets.find(candidate.decode("latin-1")) is not None:
            return True
        # Compare with every key, so that the time taken reveals nothing about the keys.
        matches = [hmac.compare_digest(candidate, key) for key in self._keys]
        return any(matches)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Log and count a response, unless its path is in UNLOGGED_PATHS. Most refused keys of a flood have no line."""
        path = scope["path"]
        if path in UNLOGGED_PATHS:
            return
        code = scope.get("asr_code") or _default_code(status)
        kind = {"kind": scope["asr_kind"]} if "asr_kind" in scope else {}
        fields = {"id": scope["asr_request_id"], "method": scope.get("method", "GET"), "path": path, "status": status}
        fields |= {"code": code, "seconds": round(seconds, 4), **kind}
        if code == Unauthorized.code:
            self._log_refusal(_client_address(scope), fields)
        else:
            logs.info("request", **fields)
        route = getattr(scope.get("route"), "path", "other")
        is_session = status == HTTPStatus.SWITCHING_PROTOCOLS  # whose length says nothing of the server
        self._metrics.count(route, code, scope.get("asr_kind", "none"), None if is_session else seconds)

    def _log_refusal(self, address: str, fields: dict[str, Any]) -> None:
        """Log a refused key with the address of the client, unless there are too many such lines already."""
        unlogged = self._failures.unlogged_if_due(address)
        if unlogged is not None:
            logs.warning("key_refused", **fields, client=address, unlogged=unlogged)


def _client_address(scope: Scope) -> str:
    """Return the address of the client, or of the proxy if the server does not trust the proxy's headers."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the id that the client sent if it is valid, else a new one."""
    client_id = headers.get(b"x-request-id", b"").decode("latin-1")
    return client_id if _REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex


def _default_code(status: int) -> str:
    """Return the code to record for a response if no route has set one.

    A status of 0 means that no response was sent, and gives the code `cancelled`.
    """
    if not status:
        return "cancelled"
    return "ok" if status < 400 else f"http_{status}"
