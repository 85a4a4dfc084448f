"""Start and stop the server: build and close the pipeline, and answer `/hc` meanwhile. Knows no other route.

This module uses ASGI without a framework. FastAPI is imported after PyTorch, while the weights are loaded, or earlier
by the first request for a path other than `/hc`. Imports hold the interpreter's lock, so importing FastAPI first would
delay the loading of the model.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from handler import logs
from handler.errors import AsrError, Internal
from handler.exit_codes import CANNOT_START, DECODING_LOST
from handler.settings import Settings, SettingsError
from handler.transcription.pipeline import Pipeline
from local_server.middleware.security_headers import with_security_headers
from local_server.state import ServerState
from local_server.watchdog import await_lost_decoding

if TYPE_CHECKING:  # importing starlette would slow down the start
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from local_server.live.wyoming_server import WyomingServer

Build = Callable[[Settings], Pipeline]


class LifespanApp:
    """The ASGI application, which answers `/hc` at once while it builds the pipeline in a thread.

    All other requests are handled by the application that `make_app` returns. Both the pipeline and that application
    exist before `/hc` reports that the server is ready. `on_fault` is called with the exit code if one of them
    cannot be made, or if the server can no longer decode audio.
    """

    def __init__(
        self,
        state: ServerState,
        build: Build,
        make_app: Callable[[ServerState], ASGIApp],
        on_fault: Callable[[int], None],
    ) -> None:
        self._state = state
        self._build = build
        self._make_app = make_app
        self._on_fault = on_fault
        self._app: ASGIApp | None = None
        self._lock = threading.Lock()  # held while the application with all routes is made
        self._watchdog: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._wyoming: WyomingServer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, or the ASGI lifespan, in which the server starts and stops."""
        send = with_security_headers(send)
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope.get("path") == "/hc" and scope.get("method") in ("GET", "HEAD"):
            await _send_json(send, *self._state.health())
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application with all routes answer. If that breaks down before it has begun, send an error."""
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            app = self._app if self._app is not None else await asyncio.to_thread(self._prepare)
            await app(scope, receive, send_on)
        except Exception as exc:
            if has_begun or scope["type"] != "http":
                raise
            logs.error("request_crashed", exc)
            error = Internal(f"a fault of this server: {type(exc).__name__}")
            await _send_json(send, HTTPStatus.INTERNAL_SERVER_ERROR, {"error": error.as_dict()})

    def prepare_early(self) -> None:
        """Make the application with all routes. If that fails, it is tried again before the server is ready."""
        try:
            self._prepare()
        except Exception as exc:
            logs.warning("routes_delayed", reason=f"{type(exc).__name__}: {exc}")

    def note_stop(self) -> None:
        """Record that the server begins to stop. From now on, running work has DRAIN_TIMEOUT_S."""
        if self._state.stops_at is None:
            self._state.stops_at = time.monotonic() + self._state.settings.drain_timeout_s

    def _prepare(self) -> ASGIApp:
        """Return the application with all routes. The first call makes it."""
        with self._lock:
            if self._app is None:
                self._app = self._make_app(self._state)
            return self._app

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        start = asyncio.create_task(self._start())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._is_stopping = True
        await start
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._state.jobs is not None:
            await self._state.jobs.close(self._state.drain_s())
        if self._wyoming is not None:
            await self._wyoming.stop()
        if self._state.sessions is not None:
            self._state.sessions.close()
        if self._state.pipeline is not None:
            await asyncio.to_thread(self._state.pipeline.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        state = self._state
        pipeline: Pipeline | None = None
        try:
            pipeline = await asyncio.to_thread(self._build, state.settings)
            if self._app is None and not self._is_stopping:
                await asyncio.to_thread(self._prepare)
            if state.settings.wyoming_port is not None and not self._is_stopping:
                await self._serve_wyoming(pipeline, state.settings.wyoming_port)
        except Exception as exc:
            if pipeline is not None:
                await asyncio.to_thread(pipeline.close)
            state.fault = str(exc)
            crash = None if isinstance(exc, (AsrError, ValueError)) else exc  # an expected error needs no traceback
            logs.error("cannot_start", crash, reason=str(exc))
            self._on_fault(CANNOT_START)
            return
        state.pipeline = pipeline
        self._watchdog = asyncio.create_task(self._watch(pipeline))
        if not self._is_stopping:
            await asyncio.to_thread(_prepare_downloads, pipeline)

    async def _serve_wyoming(self, pipeline: Pipeline, port: int) -> None:
        """Listen for Home Assistant. Raises SettingsError."""
        assert self._state.sessions is not None  # there are routes
        try:
            from local_server.live.wyoming_server import WyomingServer

            self._wyoming = WyomingServer(pipeline, self._state.sessions, self._state.settings, port)
            await self._wyoming.start()
        except (ImportError, OSError) as exc:
            raise SettingsError("WYOMING_PORT", port, f"the extra wyoming and a free port: {exc}") from None
        logs.info("wyoming_listening", port=port)

    async def _watch(self, pipeline: Pipeline) -> None:
        await await_lost_decoding(pipeline)
        logs.error("ends", reason=str(pipeline.fault))
        self._on_fault(DECODING_LOST)


def _prepare_downloads(pipeline: Pipeline) -> None:
    """Import what the first download needs. Uploads do not wait for it, and a download tries again if it fails."""
    try:
        pipeline.prepare_downloads()
    except Exception as exc:
        logs.warning("downloads_delayed", reason=f"{type(exc).__name__}: {exc}")


async def _send_json(send: Send, status: int, content: Mapping[str, object] | None) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    headers: list[tuple[bytes, bytes]] = []
    if body:
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
