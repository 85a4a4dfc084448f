"""What every request passes: its id, its key, its line in the log and in the metrics. Pure ASGI, so that streams stay streams."""

import hmac
import re
import time
import uuid
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler import logs
from handler.errors import Unauthorized
from local_server.errors import error_response
from local_server.metrics import Metrics

FREE = frozenset({"/", "/hc", "/metrics"})  # and the page's files
PAGE = "/page/"
_ID = re.compile(r"[\w.:-]{1,128}")
_QUIET = frozenset({"/hc", "/metrics"})  # asked for all the time


class AccessMiddleware:
    """Lets requests through to `app`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], metrics: Metrics) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope["asr_request_id"] = name
        status = 0
        began = ended = time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            ended = time.perf_counter()
            await send(message)

        try:
            if self._is_free(scope) or self._has_key(headers):
                await self._app(scope, receive, told)
            else:
                scope["asr_code"] = "unauthorized"
                refusal = Unauthorized("expected a key, as Authorization: Bearer or X-API-Key")
                await error_response(refusal, scope["path"])(scope, receive, told)
        finally:
            self._note(scope, name, status, (ended if status else time.perf_counter()) - began)

    def _is_free(self, scope: Scope) -> bool:
        # A browser asks before it may send a key.
        return not self._keys or scope["path"] in FREE or scope["path"].startswith(PAGE) or scope["method"] == "OPTIONS"

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        found = [hmac.compare_digest(given, key) for key in self._keys]  # all of them, so that time tells nothing
        return any(found)

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        path = scope["path"]
        if path in _QUIET:
            return
        code = scope.get("asr_code", "cancelled" if not status else "ok" if status < 400 else f"http_{status}")
        told = {"kind": scope["asr_kind"]} if "asr_kind" in scope else {}
        logs.info("request", id=name, method=scope["method"], path=path, status=status, code=code, seconds=round(seconds, 4), **told)
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.count(route, code, scope.get("asr_kind", "none"), seconds)
