"""A transcript as server-sent events: text as it is settled, then the whole. Knows no route and no field.

Source of the format: WHATWG, HTML, server-sent events.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from handler import logs
from handler.errors import AsrError, Internal
from handler.pipeline import Pipeline, Progress
from handler.schema import AudioSource, Options, Transcript
from handler.sendable import encoded
from local_server.body import while_there

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def told(pipeline: Pipeline, source: AudioSource, options: Options, stack: AsyncExitStack) -> AsyncGenerator[Progress | Transcript]:
    """How far a request is, again and again, then its transcript; whoever stops listening cancels it. Raises AsrError.

    `stack` holds what the source needs, and is closed at the end.
    """
    news: asyncio.Queue[Progress | None] = asyncio.Queue()
    async with stack:
        task = asyncio.create_task(pipeline.transcribe(source, options, news.put_nowait))
        task.add_done_callback(lambda _: news.put_nowait(None))
        try:
            while (progress := await news.get()) is not None:
                yield progress
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def event(content: dict[str, Any], name: str | None = None) -> str:
    """One event."""
    data = encoded(content).decode()
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


async def response(
    request: Request, events: AsyncGenerator[str], failed: Callable[[AsrError], str], headers: dict[str, str]
) -> StreamingResponse:
    """A stream of events. Raises what happens before the first one, so that it still has its status; `failed` tells later errors."""
    try:
        first = await while_there(request, anext(events))
    except BaseException:
        await events.aclose()
        raise

    async def all_of_them() -> AsyncGenerator[str]:
        request.scope["asr_code"] = "cancelled"  # as long as the client may leave
        async with aclosing(events):
            try:
                yield first
                async for one in events:
                    yield one
                request.scope["asr_code"] = "ok"
            except AsrError as exc:
                request.scope["asr_code"] = exc.code
                yield failed(exc)
            except Exception as exc:
                request.scope["asr_code"] = Internal.code
                logs.error("stream_crashed", exc)
                yield failed(Internal(f"a fault of this server: {type(exc).__name__}"))

    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers={**HEADERS, **headers})
