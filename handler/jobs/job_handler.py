"""The queue's jobs to answers: one file or many, whole or as a stream, with updates meanwhile. Knows no SDK and no decoding."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from handler import logs
from handler.audio.fetch import public_url
from handler.audio.source import AudioSource
from handler.errors import AsrError, DeadlineExceeded, DeviceLost, Internal
from handler.jobs.faster_whisper_compat import answer as as_theirs
from handler.jobs.job import Job, parse_job
from handler.jobs.job_stream import CHUNK_BYTES, PARTED, StreamPartitioner
from handler.jobs.progress import ProgressPublisher
from handler.jobs.result_delivery import ENVELOPE, deliver
from handler.output.formats import to_object
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.transcript import Progress, ProgressCallback, Segment, Transcript
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline

SPARE_S, SPARE = 5.0, 0.05  # of the time that a job has, the lesser of the two is for putting its answer together and sending it
LIST_SHARE = 4  # a list has no more than one in so many of all files in work
SPENT = ("device_s", "total_s", "price")  # figures of an account that add up
Event = Mapping[str, Any]
Post = Callable[[str, Any], Awaitable[None]]
T = TypeVar("T")


class JobHandler:
    """Answers jobs by one pipeline."""

    def __init__(self, pipeline: Pipeline, settings: Settings, post: Post, lost: Callable[[], None]) -> None:
        """`post` sends an update on a job; `lost` is called when nothing will run on the device any more."""
        self._pipeline = pipeline
        self._settings = settings
        self._post = post
        self._lost = lost
        self._room = asyncio.Semaphore(settings.max_requests)  # files in work: those of a long list wait here, and are not refused

    async def answer(self, event: Event) -> dict[str, Any]:
        """The answer to a job, or its error as text under `error`, beginning with the stable code."""
        began = time.perf_counter()
        try:
            job = parse_job(event, self._settings)
            async with self._updates(job) as tell:
                found = await self._found(job, began, tell)
            return await deliver(found, job, self._settings)
        except Exception as exc:
            return {"error": str(self._refusal(event, exc))}

    async def stream(self, event: Event) -> AsyncIterator[dict[str, Any]]:
        """The parts of an answer as they are done; the last one has all but the text. An error ends it."""
        began = time.perf_counter()
        try:
            job = parse_job(event, self._settings)
            whole = job.many or job.shape is not None or job.upload_always
            async for part in self._whole(job, began) if whole else self._parts(job, began):
                yield part
        except Exception as exc:
            yield {"error": str(self._refusal(event, exc))}

    def _refusal(self, event: Event, exc: Exception) -> AsrError:
        """The error that a job ends with, logged."""
        if not isinstance(exc, AsrError):
            logs.error("job_crashed", exc, job=event.get("id"))
            exc = Internal(f"a fault of this worker: {type(exc).__name__}")
        if isinstance(exc, DeviceLost):
            self._lost()
        logs.info("job_refused", job=event.get("id"), **exc.as_dict())
        return exc

    @asynccontextmanager
    async def _updates(self, job: Job) -> AsyncIterator[ProgressCallback | None]:
        """What takes in how far a job is; when the block is left, no update is on its way any more."""
        if not self._settings.progress_interval_s:
            yield None
            return
        updates = ProgressPublisher(lambda content: self._post(job.id, to_jsonable(content)), self._settings.progress_interval_s)
        try:
            yield updates.tell
        finally:
            await updates.close()

    async def _found(self, job: Job, began: float, tell: ProgressCallback | None) -> dict[str, Any]:
        if job.many:
            return await self._many(job, began, tell)
        return await self._one(job.sources[0], job, began, tell)

    async def _one(self, source: AudioSource, job: Job, began: float, tell: ProgressCallback | None) -> dict[str, Any]:
        """The answer to one file, also in the shape that another worker's clients read."""
        if job.shape is None or job.shape.translation is None:
            async with self._admitted(job, began) as limit_s:
                transcript = await self._pipeline.transcribe(source, job.options, tell, limit_s())
            return await asyncio.to_thread(_shaped, transcript, None, job)
        async with self._admitted(job, began) as limit_s, self._downloaded(source) as kept:
            transcript = await self._pipeline.transcribe(kept, job.options, tell, limit_s())
            translated = await self._pipeline.transcribe(kept, replace(job.options, task="translate"), None, limit_s())
        return await asyncio.to_thread(_shaped, transcript, translated, job)

    @asynccontextmanager
    async def _admitted(self, job: Job, began: float) -> AsyncIterator[Callable[[], float]]:
        """Room for one file at a time; gives what tells how many seconds a job has left. Raises DeadlineExceeded."""
        until = began + job.limit_s - min(SPARE_S, SPARE * job.limit_s)

        def left() -> float:
            return max(0.0, until - time.perf_counter())

        try:
            await asyncio.wait_for(self._room.acquire(), left())
        except TimeoutError:
            raise DeadlineExceeded(f"expected room for the job within {job.limit_s:g} s; others were in work all the time") from None
        try:
            yield left
        finally:
            self._room.release()

    @asynccontextmanager
    async def _downloaded(self, source: AudioSource) -> AsyncIterator[AudioSource]:
        """A source that may be read twice, and is downloaded once."""
        if source.url is None:
            yield source
            return
        fetcher = self._pipeline.fetcher
        spool = fetcher.spool()
        self._pipeline.threads.submit(fetcher.fill, source.url, spool)
        try:
            yield AudioSource(growing=spool)
        finally:
            spool.stop()
            await asyncio.shield(asyncio.to_thread(spool.close))

    async def _many(self, job: Job, began: float, tell: ProgressCallback | None) -> dict[str, Any]:
        """The answers to all files of a job, in order; one that fails has its error where the others have their transcript."""
        far: dict[int, Progress] = {}
        turns = asyncio.Semaphore(max(1, self._settings.max_requests // LIST_SHARE))

        def note(index: int, progress: Progress) -> None:
            far[index] = progress
            totals = [one.total_s for one in far.values()]
            known = None not in totals and len(far) == len(job.sources)
            if tell is not None:
                tell(Progress(sum(one.done_s for one in far.values()), sum(filter(None, totals)) if known else None))

        async def one(index: int, source: AudioSource) -> dict[str, Any]:
            try:
                async with turns:
                    return await self._one(source, job, began, partial(note, index))
            except AsrError as exc:
                return {"url": public_url(source.url or ""), "error": str(self._refusal({"id": job.id}, exc))}

        results = await _together(*(one(index, source) for index, source in enumerate(job.sources)))
        accounts = [result["account"] for result in results if "account" in result]
        summed = {name: round(sum(account[name] for account in accounts), 4) for name in ("audio_s", "device_s")}
        return {"results": results, "account": {**summed, "total_s": round(time.perf_counter() - began, 4), "files": len(results)}}

    async def _whole(self, job: Job, began: float) -> AsyncIterator[dict[str, Any]]:
        """An answer that is put together of several, in one part."""
        yield await deliver(await self._found(job, began, None), job, self._settings, CHUNK_BYTES)

    async def _parts(self, job: Job, began: float) -> AsyncIterator[dict[str, Any]]:
        """Text as it is settled, then all the rest; what would be too much for the platform goes to a bucket as a whole."""
        news: asyncio.Queue[Sequence[Segment] | None] = asyncio.Queue()

        async def transcribe() -> Transcript:
            async with self._admitted(job, began) as limit_s:
                return await self._pipeline.transcribe(
                    job.sources[0], job.options, lambda told: news.put_nowait(told.final_segments), limit_s()
                )

        task = asyncio.create_task(transcribe())
        task.add_done_callback(lambda _: news.put_nowait(None))
        if (owner := asyncio.current_task()) is not None:
            # A job that is cancelled while the SDK sends a part leaves this generator where it stands.
            owner.add_done_callback(lambda _: task.cancel())
        parting = StreamPartitioner(job.options)
        last = min(CHUNK_BYTES, self._settings.max_result_bytes // 4)  # bytes kept for the last part
        room = self._settings.max_result_bytes - ENVELOPE - last
        try:
            while (final_segments := await news.get()) is not None:
                for part in parting.parts(final_segments):
                    if parting.bytes <= room:
                        yield part
            transcript = await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        found = await asyncio.to_thread(to_object, transcript, job.options.format)
        rest = to_jsonable({name: value for name, value in found.items() if name not in PARTED})
        formatted = list(parting.formatted(found.get("formatted", "")))
        if parting.bytes <= room and len(encode_json(rest)) <= last:
            for part in formatted:
                yield part
            yield rest
        else:
            short = await deliver(found, job, self._settings, last, whole=False)
            yield {name: value for name, value in short.items() if name not in PARTED}


def _shaped(transcript: Transcript, translated: Transcript | None, job: Job) -> dict[str, Any]:
    """An answer, what a second pass took and lacks included."""
    found = to_object(transcript, job.options.format)
    if job.shape is None:
        return found
    found |= as_theirs(job.shape, transcript, translated)
    if translated is not None:
        account = found["account"]
        found["account"] = account | {name: account[name] + translated.account[name] for name in SPENT if name in account}
        found["warnings"] = [*found["warnings"], *(f"translation: {warning}" for warning in translated.warnings)]
        cuts = [one.resume_at for one in (transcript, translated) if one.resume_at is not None]
        found |= {"resume_at": min(cuts)} if cuts else {}
    return found


async def _together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """What all of some work comes to; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
