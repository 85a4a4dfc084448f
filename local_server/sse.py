"""A transcript as server-sent events: text as it is settled, then the whole. Knows no route and no field.

Source of the format: WHATWG, HTML, server-sent events.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse

from handler.errors import AsrError
from handler.pipeline import Pipeline, Progress
from handler.schema import AudioSource, Options, Transcript

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def told(pipeline: Pipeline, source: AudioSource, options: Options, stack: AsyncExitStack) -> AsyncIterator[Progress | Transcript]:
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
    data = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


async def response(events: AsyncIterator[str], failed: Any, headers: dict[str, str]) -> StreamingResponse:
    """A stream of events. Raises what happens before the first one, so that it still has its status; `failed` tells later errors."""
    first = await anext(events)

    async def all_of_them() -> AsyncIterator[str]:
        yield first
        try:
            async for one in events:
                yield one
        except AsrError as exc:
            yield failed(exc)

    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers={**HEADERS, **headers})
