"""A transcript as server-sent events: final text as it is ready, then the transcript. Knows no route and no field.

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
from local_server.uploads.request_body import SHUTTING_DOWN, RequestBody

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
TranscriptStream = AsyncGenerator[Progress | Transcript]  # any number of progress items, then the transcript


def transcript_stream(
    pipeline: Pipeline, source: AudioSource, options: Options, stack: AsyncExitStack
) -> TranscriptStream:
    """Start a request, and return its progress, which is queued until it is read, and its transcript.

    Closing `stack` cancels the request. Reading raises AsrError if the request fails.
    """
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.create_task(pipeline.transcribe(source, options, queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    stack.push_async_callback(_cancel, task)

    async def items() -> TranscriptStream:
        while (progress := await queue.get()) is not None:
            yield progress
        yield await task

    return items()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def event(content: dict[str, Any], name: str | None = None) -> str:
    """Return one server-sent event."""
    data = encode_json(content).decode()
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


class EventStreamResponse(StreamingResponse):
    """A response of events that ends when the client leaves, and then releases what its request holds."""

    def __init__(
        self,
        events: AsyncGenerator[str],
        shutdown_event: str,
        request_body: RequestBody,
        stack: AsyncExitStack,
        headers: dict[str, str],
    ) -> None:
        """`shutdown_event` is sent if the server shuts down before the stream ends."""
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._shutdown_event = shutdown_event.encode()
        self._request_body = request_body
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as ASGI defines it."""
        with suppress(asyncio.CancelledError):  # a server that shuts down cancels twice
            async with self._stack:
                try:
                    await super().__call__(scope, self._request_body.receive_disconnect, send)
                except asyncio.CancelledError:
                    await send({"type": "http.response.body", "body": self._shutdown_event})


async def stream_events(
    request_body: RequestBody,
    events: AsyncGenerator[str],
    stack: AsyncExitStack,
    error_event: Callable[[AsrError], str],
    headers: dict[str, str],
) -> EventStreamResponse:
    """Wait for the first event and return the response that sends them all.

    Raises the error of a request that fails before its first event, so that it gets the status of that error; after the
    first event, errors are sent as `error_event` formats them. The response takes over what `stack` holds.
    """
    first_event = await request_body.until_client_leaves(anext(events))
    resources = stack.pop_all()
    stream = _guarded(first_event, events, error_event, request_body.scope, resources)
    return EventStreamResponse(stream, error_event(Cancelled(SHUTTING_DOWN)), request_body, resources, headers)


async def _guarded(
    first_event: str,
    events: AsyncGenerator[str],
    error_event: Callable[[AsrError], str],
    scope: Scope,
    resources: AsyncExitStack,
) -> AsyncGenerator[str]:
    """Yield every event, and an error as the last one; then release the resources and note the code in `scope`."""
    scope["asr_code"] = "cancelled"  # unless the stream reaches its end
    async with aclosing(events):
        try:
            yield first_event
            async for following_event in events:
                yield following_event
            scope["asr_code"] = "ok"
        except AsrError as exc:
            scope["asr_code"] = exc.code
            yield error_event(exc)
        except Exception as exc:
            scope["asr_code"] = Internal.code
            logs.error("stream_crashed", exc)
            yield error_event(Internal(f"a fault of this server: {type(exc).__name__}"))
    await resources.aclose()  # before the end of the response, which may have to wait for a client that still sends
