"""Transcribe the queue's jobs and return their answers. Knows no SDK and no decoding.

A job has one file or a list of files. Its answer is returned as one object or as a stream of parts. If the answer is
one object, progress updates are sent while the job runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from handler import logs
from handler.audio.source import AudioSource
from handler.audio.urls import public_url
from handler.errors import AsrError, DeadlineExceeded, DeviceLost, Internal
from handler.jobs.faster_whisper_compat import to_compat_fields
from handler.jobs.job import Job, job_id, parse_job
from handler.jobs.job_stream import CHUNK_BYTES, STREAMED_FIELDS, StreamPartitioner
from handler.jobs.progress import ListProgress, ProgressPublisher
from handler.jobs.result_delivery import ENVELOPE_BYTES, deliver
from handler.output.formats import to_object
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.options import Options
from handler.schema.transcript import ProgressCallback, Transcript
from handler.settings import Settings
from handler.transcription.admission import Place
from handler.transcription.pipeline import Pipeline
from handler.transcription.transcript_stream import TranscriptStream

# A job's last seconds are reserved for building and sending its answer: this many seconds, or this share of its time
# limit if that is less.
ANSWER_RESERVE_S, ANSWER_RESERVE_RATIO = 5.0, 0.05
LIST_SHARE = 4  # a list transcribes at most max_requests / LIST_SHARE files at a time, to leave room for other jobs
LAST_PART_SHARE = 4  # the last part of a stream takes at most max_result_bytes / LAST_PART_SHARE
SUMMED_FIGURES = ("device_s", "total_s", "price")  # fields of an account that are summed over two passes
Event = Mapping[str, Any]
PostUpdate = Callable[[str, Any], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A file that may be transcribed."""

    place: Place
    deadline: float  # of time.perf_counter; by then, the job has to build its answer

    @property
    def remaining_s(self) -> float:
        """How many seconds are left for transcribing."""
        return max(0.0, self.deadline - time.perf_counter())


class JobHandler:
    """Transcribes jobs on one pipeline and returns their answers."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, post_update: PostUpdate, on_fault: Callable[[], None]
    ) -> None:
        """Create a handler.

        `post_update(job_id, content)` is called to send a progress update on a job. `on_fault` is called for each
        job that fails because this process can no longer use the device or decode audio.
        """
        self._pipeline = pipeline
        self._settings = settings
        self._post_update = post_update
        self._on_fault = on_fault

    async def answer(self, event: Event) -> dict[str, Any]:
        """Transcribe a job and return its answer.

        If the job fails, return `{"error": text}`. The text begins with the error's code, such as `too_large`.
        """
        started_at = time.perf_counter()
        try:
            job = parse_job(event, self._settings)
            async with self._publish_updates(job) as progress:
                answer = await self._transcribe_files(job, started_at, progress)
            return await deliver(answer, job, self._settings)
        except Exception as exc:
            return {"error": str(self._refuse(event, exc))}

    async def stream(self, event: Event) -> AsyncIterator[dict[str, Any]]:
        """Transcribe a job and yield the parts of its answer as they are done.

        The first parts contain the text, and the last part contains all other fields. An answer that cannot be split is
        yielded as one part. If the job fails, the last part is `{"error": text}`. The text begins with the error's
        code, such as `too_large`.
        """
        started_at = time.perf_counter()
        try:
            job = parse_job(event, self._settings)
            is_single_part = job.is_list or job.compat_format is not None or job.always_upload
            stream = self._stream_single_part if is_single_part else self._stream_parts
            async for part in stream(job, started_at):
                yield part
        except Exception as exc:
            yield {"error": str(self._refuse(event, exc))}

    def _refuse(self, event: Event, exc: Exception) -> AsrError:
        """Log the exception that ends a job, and return it as an AsrError.

        Call `on_fault` if no other job can succeed in this process.
        """
        if not isinstance(exc, AsrError):
            logs.error("job_crashed", exc, job=job_id(event))
            exc = Internal(f"a fault of this worker: {type(exc).__name__}")
        if isinstance(exc, DeviceLost) or self._pipeline.fault is not None:
            self._on_fault()
        logs.info("job_refused", job=job_id(event), **exc.as_dict())
        return exc

    @asynccontextmanager
    async def _publish_updates(self, job: Job) -> AsyncIterator[ProgressCallback | None]:
        """Yield a callback that publishes a job's progress. On exit, wait briefly for an update in transit.

        Yield None if the setting PROGRESS_INTERVAL_S is 0, which turns updates off.
        """
        interval_s = self._settings.progress_interval_s
        if not interval_s:
            yield None
            return
        publisher = ProgressPublisher(lambda content: self._post_update(job.id, to_jsonable(content)), interval_s)
        try:
            yield publisher.publish
        finally:
            await publisher.close()

    async def _transcribe_files(self, job: Job, started_at: float, progress: ProgressCallback | None) -> dict[str, Any]:
        if job.is_list:
            return await self._transcribe_list(job, started_at, progress)
        return await self._transcribe_one(job.sources[0], job, started_at, progress)

    async def _transcribe_one(
        self, source: AudioSource, job: Job, started_at: float, progress: ProgressCallback | None
    ) -> dict[str, Any]:
        """Transcribe one file and return its answer. Also translate the file if the job wants a translation."""
        wants_translation = job.compat_format is not None and job.compat_format.translation is not None
        translation: Transcript | None = None
        async with self._admit(job, started_at) as admitted:
            if wants_translation:
                async with self._download_once(source) as audio:
                    transcript = await self._follow(admitted, audio, job.options, progress)
                    translation = await self._follow(admitted, audio, replace(job.options, task="translate"), None)
            else:
                transcript = await self._follow(admitted, source, job.options, progress)
        return await asyncio.to_thread(_build_answer, transcript, translation, job)

    async def _follow(
        self, admitted: _Admitted, source: AudioSource, options: Options, progress: ProgressCallback | None
    ) -> Transcript:
        """Transcribe a file, pass on its progress, and return the transcript."""
        stream = self._pipeline.stream(source, options, admitted.remaining_s, admitted.place)
        async with aclosing(stream):
            async for item in stream:
                if isinstance(item, Transcript):
                    return item
                if progress is not None:
                    progress(item)
        raise AssertionError("a stream ends with its transcript")

    @asynccontextmanager
    async def _admit(self, job: Job, started_at: float) -> AsyncIterator[_Admitted]:
        """Wait until fewer than MAX_REQUESTS files are being transcribed, and hold a place while the block runs.

        Each file has a place of its own, so a long list waits instead of failing. Raises DeadlineExceeded if the job's
        time has passed before there is one.
        """
        reserve_s = min(ANSWER_RESERVE_S, ANSWER_RESERVE_RATIO * job.limit_s)
        deadline = started_at + job.limit_s - reserve_s
        try:
            # asyncio.wait_for may lose a cancellation before Python 3.12.
            async with asyncio.timeout(max(0.0, deadline - time.perf_counter())):
                place = await self._pipeline.wait_for_place()
        except TimeoutError:
            expected = f"expected room for the job within {job.limit_s:g} s"
            raise DeadlineExceeded(f"{expected}; others were in work all the time") from None
        with place:
            yield _Admitted(place, deadline)

    @asynccontextmanager
    async def _download_once(self, source: AudioSource) -> AsyncIterator[AudioSource]:
        """Yield a source that can be read twice, although its audio is downloaded only once."""
        if source.url is None:
            yield source
            return
        spool = self._pipeline.start_download(source.url)
        try:
            yield AudioSource(growing=spool)
        finally:
            spool.stop()
            await asyncio.shield(asyncio.to_thread(spool.close))

    async def _transcribe_list(self, job: Job, started_at: float, progress: ProgressCallback | None) -> dict[str, Any]:
        """Transcribe all files of a job. Return an object with the list `results` and the object `account`.

        The results are in the order of the files. The result of a file that fails has `url` and `error` instead of a
        transcript. The account has the seconds that all files took together.
        """
        list_progress = ListProgress(len(job.sources), progress)
        list_admission = asyncio.Semaphore(max(1, self._settings.max_requests // LIST_SHARE))

        async def transcribe(index: int, source: AudioSource) -> dict[str, Any]:
            try:
                async with list_admission:
                    return await self._transcribe_one(source, job, started_at, partial(list_progress.update, index))
            except AsrError as exc:
                return {"url": public_url(source.url or ""), "error": str(self._refuse({"id": job.id}, exc))}

        results = await run_concurrently(*(transcribe(index, source) for index, source in enumerate(job.sources)))
        accounts = [result["account"] for result in results if "account" in result]
        account = {
            "audio_s": round(sum(account["audio_s"] for account in accounts), 4),
            "device_s": round(sum(account["device_s"] for account in accounts), 4),
            "total_s": round(time.perf_counter() - started_at, 4),
            "files": len(results),
        }
        return {"results": results, "account": account}

    async def _stream_single_part(self, job: Job, started_at: float) -> AsyncIterator[dict[str, Any]]:
        """Yield the whole answer as one part, for a job whose answer cannot be split."""
        yield await deliver(await self._transcribe_files(job, started_at, None), job, self._settings, CHUNK_BYTES)

    async def _stream_parts(self, job: Job, started_at: float) -> AsyncIterator[dict[str, Any]]:
        """Yield parts with text as soon as the text can no longer change, then a part with all other fields.

        If the answer is too large for the platform, it is uploaded whole and the last part has the URL of the upload.
        """
        stream = TranscriptStream(partial(self._transcribe_admitted, job, started_at))
        if (owner := asyncio.current_task()) is not None:
            # If the job is cancelled while a part is being sent, the SDK does not close this generator.
            owner.add_done_callback(lambda _: stream.cancel())
        partitioner = StreamPartitioner(job.options)
        max_bytes = self._settings.max_result_bytes
        last_part_bytes = min(CHUNK_BYTES, max_bytes // LAST_PART_SHARE)
        text_bytes = max_bytes - ENVELOPE_BYTES - last_part_bytes
        async with aclosing(stream):
            async for item in stream:
                if isinstance(item, Transcript):
                    transcript = item
                    break
                # Who speaks is known at the end, and what was sent cannot be changed.
                for part in partitioner.split_segments(() if job.options.diarize else item.final_segments):
                    if partitioner.total_bytes <= text_bytes:
                        yield part
        for part in partitioner.split_segments(transcript.segments if job.options.diarize else ()):
            if partitioner.total_bytes <= text_bytes:
                yield part
        for part in await self._last_parts(transcript, job, partitioner, text_bytes, last_part_bytes):
            yield part

    async def _transcribe_admitted(self, job: Job, started_at: float, progress: ProgressCallback) -> Transcript:
        """Wait until a job is admitted, and transcribe its file."""
        async with self._admit(job, started_at) as admitted:
            return await self._follow(admitted, job.sources[0], job.options, progress)

    async def _last_parts(
        self, transcript: Transcript, job: Job, partitioner: StreamPartitioner, text_bytes: int, last_part_bytes: int
    ) -> list[dict[str, Any]]:
        """Return the parts that follow the segments: the answer's `formatted` text, if any, then all other fields.

        `text_bytes` limits the total size of the parts with text, including those with segments. `last_part_bytes`
        limits the last part. If a limit is exceeded, upload the answer and return one part with the upload's URL.
        """
        answer = await asyncio.to_thread(to_object, transcript, job.options.format)
        last_part = to_jsonable(_without_streamed(answer))
        formatted_parts = list(partitioner.split_formatted(answer.get("formatted", "")))
        if partitioner.total_bytes <= text_bytes and len(encode_json(last_part)) <= last_part_bytes:
            return [*formatted_parts, last_part]
        return [_without_streamed(await deliver(answer, job, self._settings, last_part_bytes, may_inline=False))]


def _without_streamed(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in STREAMED_FIELDS}


def _build_answer(transcript: Transcript, translation: Transcript | None, job: Job) -> dict[str, Any]:
    """Return the answer for one file.

    If there is a translation, its warnings are added to the answer, and its seconds and price to the account.
    """
    answer = to_object(transcript, job.options.format)
    if job.compat_format is None:
        return answer
    answer |= to_compat_fields(job.compat_format, transcript, translation)
    if translation is None:
        return answer
    account = answer["account"]
    sums = {name: account[name] + translation.account[name] for name in SUMMED_FIGURES if name in account}
    answer["account"] = account | sums
    answer["warnings"] = [*answer["warnings"], *(f"translation: {warning}" for warning in translation.warnings)]
    resume_times = [result.resume_at for result in (transcript, translation) if result.resume_at is not None]
    if resume_times:
        answer["resume_at"] = min(resume_times)
    return answer


async def run_concurrently(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """Run coroutines concurrently and return their results in the order of the arguments.

    If one of the coroutines raises an exception, cancel the remaining ones and raise that exception.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return [task.result() for task in tasks]
