"""Updates on one job while it runs: one on its way at a time, the newest always, none once `close` has returned. Knows no SDK.

The SDK's own progress_update starts a thread a call, whose posts may overtake one another and the result.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from handler.schema.transcript import Progress

LAST_S = 2.0  # how long a result waits for an update that is on its way
MOST_TEXT = 100_000  # characters of text in an update: its end
Post = Callable[[Any], Awaitable[None]]


class ProgressPublisher:
    """Tells how far a job is, every `every_s` seconds at most."""

    def __init__(self, post: Post, every_s: float) -> None:
        self._post = post
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._text: list[str] = []
        self._length = 0
        self._newest: Progress | None = None
        self._news = asyncio.Event()
        self._task = self._loop.create_task(self._run())
        self._sending = self._closed = False

    def tell(self, progress: Progress) -> None:
        """Take in how far the job is."""
        for segment in progress.final_segments:
            self._text.append(segment.text)
            self._length += len(segment.text)
        while self._length - len(self._text[0] if self._text else "") >= MOST_TEXT:
            self._length -= len(self._text.pop(0))
        self._newest = progress
        self._news.set()

    async def close(self) -> None:
        """Send no other update; wait for the one that is on its way, or break it off."""
        self._closed = True
        if self._sending:
            await asyncio.wait({self._task}, timeout=LAST_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._closed:
            await asyncio.sleep(self._every_s)
            await self._news.wait()
            self._news.clear()
            self._sending = True
            await self._post(self._content())
            self._sending = False

    def _content(self) -> dict[str, Any]:
        """What an update says."""
        assert self._newest is not None
        done_s, total_s = self._newest.done_s, self._newest.total_s
        elapsed = self._loop.time() - self._began
        known = total_s is not None and total_s > 0 and done_s > 0
        return {
            "percent": round(100 * min(1.0, done_s / total_s), 1) if known and total_s else None,
            "seconds_left": round(max(0.0, elapsed * (total_s - done_s) / done_s), 1) if known and total_s else None,
            "done_s": round(done_s, 3),
            "total_s": None if total_s is None else round(total_s, 3),
            "text": "".join(self._text).strip()[-MOST_TEXT:],
        }
