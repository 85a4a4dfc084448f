"""A running transcription as an asynchronous iterator. Knows no engine and no entry point."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from handler.schema.transcript import Progress, ProgressCallback, Transcript

Work = Callable[[ProgressCallback], Coroutine[Any, Any, Transcript]]


class TranscriptStream:
    """Yields any number of progress items as they are reported, and last the transcript. Raises what the work raises.

    The work begins at once, whether or not anybody reads, and what is not read waits. `aclose` ends the work; so does
    losing the last reference to the stream.
    """

    def __init__(self, work: Work) -> None:
        """Start `work`, which is called with a function that reports progress. Call this in the event loop."""
        items: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._items = items
        self._is_done = False
        self._task = asyncio.create_task(work(items.put_nowait))
        self._task.add_done_callback(lambda _: items.put_nowait(None))

    def __aiter__(self) -> "TranscriptStream":
        return self

    async def __anext__(self) -> Progress | Transcript:
        if self._is_done:
            raise StopAsyncIteration
        if (progress := await self._items.get()) is not None:
            return progress
        self._is_done = True
        return await self._task

    def cancel(self) -> None:
        """End the work soon. Call this in the event loop."""
        self._task.cancel()

    async def aclose(self) -> None:
        """End the work, and wait until it has ended."""
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def __del__(self) -> None:
        if not self._task.done() and not self._task.get_loop().is_closed():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
