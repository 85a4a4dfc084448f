"""A transcript as server-sent events: text as it is settled, then the whole. Knows no route and no field.

Source of the format: WHATWG, HTML, server-sent events.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from handler import logs
from handler.audio.source import AudioSource
from handler.errors import AsrError, Cancelled, Internal
from handler.output.json_encoding import encode_json
from handler.schema.options import Options
from handler.schema.transcript import Progress, Transcript
from handler.transcription.pipeline import Pipeline
from local_server.uploads.request_body import ENDING, RequestBody

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
Told = AsyncGenerator[Progress | Transcript]  # how far a request is, again and again, then its transcript


def told(pipeline: Pipeline, source: AudioSource, options: Options, stack: AsyncExitStack) -> Told:
    """Begin a request, which `stack` ends; what it tells is kept until somebody listens. Raises AsrError there."""
    news: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.create_task(pipeline.transcribe(source, options, news.put_nowait))
    task.add_done_callback(lambda _: news.put_nowait(None))
    stack.push_async_callback(_end, task)

    async def listening() -> Told:
        while (progress := await news.get()) is not None:
            yield progress
        yield await task

    return listening()


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def event(content: dict[str, Any], name: str | None = None) -> str:
    """One event."""
    data = encode_json(content).decode()
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


class Events(StreamingResponse):
    """A stream of events, which ends where the client leaves; what its request needs is given back then."""

    def __init__(
        self, events: AsyncGenerator[str], last: str, incoming: RequestBody, stack: AsyncExitStack, headers: dict[str, str]
    ) -> None:
        """`last`: the event that says that the server ends."""
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._last = last.encode()
        self._incoming = incoming
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        with suppress(asyncio.CancelledError):  # a server that ends cancels twice
            async with self._stack:
                try:
                    await super().__call__(scope, self._incoming.disconnected, send)
                except asyncio.CancelledError:
                    await send({"type": "http.response.body", "body": self._last})


async def response(
    incoming: RequestBody, events: AsyncGenerator[str], stack: AsyncExitStack, failed: Callable[[AsrError], str], headers: dict[str, str]
) -> Events:
    """A stream of events. Raises what happens before the first one, so that it still has its status; `failed` tells later errors.

    `stack` holds what the request needs; the answer takes it over.
    """
    first = await incoming.while_there(anext(events))
    scope = incoming.scope
    held = stack.pop_all()

    async def all_of_them() -> AsyncGenerator[str]:
        scope["asr_code"] = "cancelled"  # as long as the client may leave
        async with aclosing(events):
            try:
                yield first
                async for one in events:
                    yield one
                scope["asr_code"] = "ok"
            except AsrError as exc:
                scope["asr_code"] = exc.code
                yield failed(exc)
            except Exception as exc:
                scope["asr_code"] = Internal.code
                logs.error("stream_crashed", exc)
                yield failed(Internal(f"a fault of this server: {type(exc).__name__}"))
        await held.aclose()  # before the last word, which may have to wait for a client that still sends

    return Events(all_of_them(), failed(Cancelled(ENDING)), incoming, held, headers)
