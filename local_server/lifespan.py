"""Start and stop the server: build and close the pipeline, and answer `/hc` meanwhile. Knows no other route.

This module uses ASGI without a framework. FastAPI is imported after the model is loaded, or earlier by the first
request for a path other than `/hc`. Imports hold the interpreter's lock, so importing FastAPI first would slow down the
loading of the model.
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

if TYPE_CHECKING:  # importing starlette would slow down the start
    from starlette.types import ASGIApp, Receive, Scope, Send

Build = Callable[[Settings], Pipeline]


class LifespanApp:
    """The ASGI application, which answers `/hc` at once while it builds the pipeline in a thread.

    All other requests are handled by the application that `make_app` returns. `on_fault` is called if the pipeline
    cannot be built.
    """

    def __init__(
        self,
        state: ServerState,
        build: Build,
        make_app: Callable[[ServerState], ASGIApp],
        on_fault: Callable[[], None],
    ) -> None:
        self._state = state
        self._build = build
        self._make_app = make_app
        self._on_fault = on_fault
        self._app: asyncio.Task[ASGIApp] | None = None
        self._is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, or the ASGI lifespan, in which the server starts and stops."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope.get("path") == "/hc" and scope.get("method") in ("GET", "HEAD"):
            await _send_json(send, *self._state.health())
        else:
            app = await self._full_app()
            await app(scope, receive, send)

    async def _full_app(self) -> ASGIApp:
        """Return the application with all routes. The first call creates it."""
        self._app = self._app or asyncio.create_task(asyncio.to_thread(self._make_app, self._state))
        return await asyncio.shield(self._app)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        start = asyncio.create_task(self._start())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._is_stopping = True
        await start
        if self._state.pipeline is not None:
            await asyncio.to_thread(self._state.pipeline.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        state = self._state
        try:
            state.pipeline = await asyncio.to_thread(self._build, state.settings)
            if not self._is_stopping:
                await self._full_app()
                await asyncio.to_thread(state.pipeline.fetcher.prepare)
        except Exception as exc:
            state.fault = str(exc)
            crash = None if isinstance(exc, (AsrError, ValueError)) else exc  # an expected error needs no traceback
            logs.error("cannot_start", crash, reason=str(exc))
            self._on_fault()


async def _send_json(send: Send, status: int, content: dict[str, str] | None) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    headers: list[tuple[bytes, bytes]] = []
    if body:
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
