"""Stream a transcript as server-sent events. Knows no route and no field.

Text is sent as soon as it can no longer change, and the whole transcript is sent at the end. Source of the format:
WHATWG, HTML, server-sent events.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from handler import logs
from handler.errors import AsrError, Cancelled, Internal
from handler.output.json_encoding import encode_json
from local_server.uploads.request_body import SHUTTING_DOWN, RequestBody
from local_server.uploads.upload_state import UploadState

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(content: dict[str, Any], name: str | None = None) -> str:
    """Return one server-sent event with `content` as JSON. The event has no name if `name` is None."""
    data = encode_json(content).decode()
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


class EventStreamResponse(StreamingResponse):
    """A response that sends events until they end or the client disconnects.

    When the response ends, all that belongs to its request ends.
    """

    def __init__(
        self,
        events: AsyncGenerator[str],
        shutdown_event: str,
        upload: UploadState,
        life: AsyncExitStack,
        headers: dict[str, str],
    ) -> None:
        """Create a response to send the events.

        `shutdown_event` is sent if the server shuts down before the last event. `life` owns all that belongs to the
        request, and ends with the response.
        """
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._shutdown_event = shutdown_event.encode()
        self._upload = upload
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response as an ASGI application."""
        with suppress(asyncio.CancelledError):  # a server that shuts down cancels twice
            async with self._life:
                try:
                    await super().__call__(scope, self._receive_disconnect, send)
                except asyncio.CancelledError:
                    await send({"type": "http.response.body", "body": self._shutdown_event})

    async def _receive_disconnect(self) -> Message:
        """Wait until the client disconnects. This is an ASGI `receive` that provides no body."""
        await self._upload.until_client_gone()
        return {"type": "http.disconnect"}


async def stream_events(
    body: RequestBody,
    events: AsyncGenerator[str],
    error_event: Callable[[AsrError], str],
    headers: dict[str, str],
) -> EventStreamResponse:
    """Wait for the first event and return a response that sends all events.

    If the request fails before its first event, the error is raised, so that the response gets the status of that
    error. Later errors are sent as events, in the form that `error_event` gives them. The response takes over what
    belongs to the request, and ends it.
    """
    first_event = await body.state.run(anext(events))
    life = body.life.pop_all()
    stream = _guarded(first_event, events, error_event, body.scope, life)
    return EventStreamResponse(stream, error_event(Cancelled(SHUTTING_DOWN)), body.state, life, headers)


async def _guarded(
    first_event: str,
    events: AsyncGenerator[str],
    error_event: Callable[[AsrError], str],
    scope: Scope,
    life: AsyncExitStack,
) -> AsyncGenerator[str]:
    """Yield all events. If there is an error, yield an event for it as the last one. Then close `life`.

    The code of the outcome is stored in `scope` for the log and the metrics.
    """
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
    await life.aclose()  # before the response ends, which may have to wait for a client that is still sending
