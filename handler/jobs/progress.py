"""Send progress updates on a job while the job runs. Knows no SDK.

Updates are sent one at a time, each has the latest progress, and none is sent after `close` has returned. The SDK's own
progress_update cannot be used, because it starts one thread per call and the requests of these threads may overtake
each other and the result.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from handler.schema.transcript import Progress, ProgressCallback

CLOSE_TIMEOUT_S = 2.0  # how long a job's result waits for an update that is being sent
MAX_TEXT_CHARS = 100_000  # length of the text in one update; earlier text is left out
SendUpdate = Callable[[Any], Awaitable[None]]


class ProgressPublisher:
    """Sends the progress of a job, at most once every `interval_s` seconds."""

    def __init__(self, send: SendUpdate, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._texts: list[str] = []
        self._text_chars = 0
        self._latest: Progress | None = None
        self._has_update = asyncio.Event()
        self._task = self._loop.create_task(self._run())
        self._is_sending = self._is_closed = False

    def publish(self, progress: Progress) -> None:
        """Record the progress of the job, to be sent with the next update."""
        for segment in progress.final_segments:
            self._texts.append(segment.text)
            self._text_chars += len(segment.text)
        while self._texts and self._text_chars - len(self._texts[0]) >= MAX_TEXT_CHARS:
            self._text_chars -= len(self._texts.pop(0))
        self._latest = progress
        self._has_update.set()

    async def close(self) -> None:
        """Stop sending. If an update is being sent, wait up to CLOSE_TIMEOUT_S seconds for it, then cancel it."""
        self._is_closed = True
        if self._is_sending:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._is_closed:
            await asyncio.sleep(self._interval_s)
            await self._has_update.wait()
            self._has_update.clear()
            self._is_sending = True
            await self._send(self._content())
            self._is_sending = False

    def _content(self) -> dict[str, Any]:
        """Return the content of an update. `percent` and `seconds_left` are None while they are unknown."""
        assert self._latest is not None
        done_s, total_s = self._latest.done_s, self._latest.total_s
        percent = seconds_left = None
        if total_s is not None and total_s > 0 and done_s > 0:
            elapsed_s = self._loop.time() - self._started_at
            percent = round(100 * min(1.0, done_s / total_s), 1)
            seconds_left = round(max(0.0, elapsed_s * (total_s - done_s) / done_s), 1)
        return {
            "percent": percent,
            "seconds_left": seconds_left,
            "done_s": round(done_s, 3),
            "total_s": None if total_s is None else round(total_s, 3),
            "text": "".join(self._texts).strip()[-MAX_TEXT_CHARS:],
        }


class ListProgress:
    """Sums the progress of all files of one job. The total is None until the length of every file is known."""

    def __init__(self, file_count: int, progress: ProgressCallback | None) -> None:
        self._file_count = file_count
        self._progress = progress
        self._by_file: dict[int, Progress] = {}

    def update(self, index: int, progress: Progress) -> None:
        """Record the progress of file number `index`, counted from 0, and report the sum over all files."""
        self._by_file[index] = progress
        if self._progress is None:
            return
        done_s = sum(file.done_s for file in self._by_file.values())
        totals_s = [file.total_s for file in self._by_file.values() if file.total_s is not None]
        total_s = sum(totals_s) if len(totals_s) == self._file_count else None
        self._progress(Progress(done_s, total_s))
