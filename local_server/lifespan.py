"""The server from its first moment on: `/hc` and the life of the pipeline, on bare ASGI. Knows no other route.

FastAPI is imported once the model is loaded, or by whoever asks for more than `/hc` before: imports share the interpreter's
lock, so while the process starts it would only be in the way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from handler import logs
from handler.errors import AsrError
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.state import ServerState

if TYPE_CHECKING:  # a starting process has no use for starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

Build = Callable[[Settings], Pipeline]


class LifespanApp:
    """The ASGI application. It listens at once and builds the pipeline in a thread; `on_fault` is called where that fails."""

    def __init__(self, house: ServerState, build: Build, make_app: Callable[[ServerState], ASGIApp], on_fault: Callable[[], None]) -> None:
        self._house = house
        self._build = build
        self._make_app = make_app
        self._on_fault = on_fault
        self._app: asyncio.Task[ASGIApp] | None = None
        self._ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope.get("path") == "/hc" and scope.get("method") in ("GET", "HEAD"):
            await _answer(send, *self._house.health())
        else:
            await (await self._whole())(scope, receive, send)

    async def _whole(self) -> ASGIApp:
        """The application with every route."""
        self._app = self._app or asyncio.create_task(asyncio.to_thread(self._make_app, self._house))
        return await asyncio.shield(self._app)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        starting = asyncio.create_task(self._start())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._ending = True
        await starting
        if self._house.pipeline is not None:
            await asyncio.to_thread(self._house.pipeline.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        house = self._house
        try:
            house.pipeline = await asyncio.to_thread(self._build, house.settings)
            if not self._ending:
                await self._whole()
                await asyncio.to_thread(house.pipeline.fetcher.prepare)
        except Exception as exc:
            house.fault = str(exc)
            logs.error("cannot_start", None if isinstance(exc, (AsrError, ValueError)) else exc, reason=str(exc))
            self._on_fault()


async def _answer(send: Send, status: int, content: dict[str, str] | None) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    headers = [(b"content-length", str(len(body)).encode())] if body else []
    headers += [(b"content-type", b"application/json")] if body else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
