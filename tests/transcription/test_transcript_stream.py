"""A stream yields what its work reports and ends with the transcript; closing or losing it ends the work."""

import asyncio
import gc
from contextlib import aclosing
from typing import cast

import pytest

from handler.errors import CorruptMedia
from handler.schema.transcript import Progress, ProgressCallback, Transcript
from handler.transcription.transcript_stream import TranscriptStream

TRANSCRIPT = cast("Transcript", "the transcript")


class Work:
    """Reports progress twice, and goes on when it is released."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = asyncio.Event()
        self.ended = asyncio.Event()
        self.was_cancelled = False
        self._error = error

    async def __call__(self, progress: ProgressCallback) -> Transcript:
        try:
            progress(Progress(1.0, 3.0))
            progress(Progress(2.0, 3.0))
            await self.released.wait()
            if self._error is not None:
                raise self._error
            return TRANSCRIPT
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()


async def test_progress_comes_before_the_transcript_which_is_last() -> None:
    work = Work()
    stream = TranscriptStream(work)
    assert [await anext(stream), await anext(stream)] == [Progress(1.0, 3.0), Progress(2.0, 3.0)]
    work.released.set()
    assert [item async for item in stream] == [TRANSCRIPT]
    assert [item async for item in stream] == []
    assert not work.was_cancelled


async def test_the_work_goes_on_while_nobody_reads() -> None:
    work = Work()
    stream = TranscriptStream(work)
    work.released.set()
    await work.ended.wait()
    assert [item async for item in stream] == [Progress(1.0, 3.0), Progress(2.0, 3.0), TRANSCRIPT]


async def test_an_error_of_the_work_is_raised_after_its_progress() -> None:
    work = Work(CorruptMedia("no audio"))
    stream = TranscriptStream(work)
    work.released.set()
    assert [(await anext(stream)).done_s for _ in range(2)] == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(CorruptMedia):
        await anext(stream)


async def test_closing_a_stream_ends_the_work_first() -> None:
    work = Work()
    async with aclosing(TranscriptStream(work)) as stream:
        await anext(stream)
    assert work.ended.is_set()
    assert work.was_cancelled


async def test_a_stream_that_nobody_holds_any_more_ends_its_work() -> None:
    work = Work()
    stream = TranscriptStream(work)
    await anext(stream)
    del stream
    gc.collect()
    await work.ended.wait()
    assert work.was_cancelled
