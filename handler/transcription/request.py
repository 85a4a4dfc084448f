"""Run one request: cut windows, decode them, reorder and merge their text. Knows no way in and no model."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from handler.audio.source import AudioSource
from handler.editing.requested_edits import RequestedEdits
from handler.errors import Cancelled, DeadlineExceeded
from handler.schema.options import Options
from handler.schema.speakers import SpeakerActivity
from handler.schema.transcript import Progress, ProgressCallback, Segment, Transcript
from handler.schema.window import Window
from handler.timeline import Timeline
from handler.transcription.caching_decoder import CachingDecoder
from handler.transcription.diarization import Diarization
from handler.transcription.engine_client import EngineClient
from handler.transcription.ingest import WindowProducer
from handler.transcription.known_speakers import KnownSpeakers
from handler.transcription.language_detector import LanguageDetector
from handler.transcription.reorder_buffer import ReorderBuffer
from handler.transcription.request_deadline import RequestDeadline
from handler.transcription.shared_resources import SharedResources
from handler.transcription.text_context import first_prompt, hotwords_of, next_prompt
from handler.transcription.transcript_builder import TranscriptBuilder
from handler.transcription.window_decoder import WindowDecoder

PARTIAL_SPEAKERS_S = 10.0  # for the speakers of a partial transcript, behind its deadline


class Request:
    """One transcription request: its audio becomes windows, these become text, and the text a transcript.

    Call `run` once. Afterwards call `close` to stop background work, and then `free` to delete downloaded bytes.
    """

    def __init__(
        self, resources: SharedResources, options: Options, progress: ProgressCallback | None, limit_s: float | None
    ) -> None:
        """Create a request that may take REQUEST_TIMEOUT_S, or `limit_s` seconds if that is less and not None."""
        self._resources = resources
        self._options = options
        self._progress = progress
        self._timeline = Timeline()
        self._deadline = RequestDeadline(resources, options, self._timeline, limit_s)
        self._diarization = Diarization.of(resources, options)
        self._known_speakers = KnownSpeakers(resources, options)
        self._producer = WindowProducer(resources, options, self._timeline, self._diarization)
        self._engine = EngineClient(resources.runner, resources.counters, options.temperature)
        decoder = WindowDecoder(self._engine, options, resources.engine.max_batch_size)
        self._decoder = CachingDecoder(decoder, resources, options)
        self._edits = RequestedEdits(options)
        self._text = ReorderBuffer(self._edits)
        self._detector = LanguageDetector.of(options, resources.engine.capabilities)

    async def run(self, source: AudioSource) -> Transcript:
        """Transcribe a source and return the transcript.

        If time runs out, and the request accepts a partial transcript, return the text that is final by then. If the
        request accepts none, DeadlineExceeded is raised. Raises AsrError, of which DeadlineExceeded is a subclass.
        """
        self._producer.start(source)
        has_expired = not await self._decode_in_time()
        self._engine.add_usage(self._timeline)
        if has_expired:
            self.close()
        speakers = None if self._diarization is None else await self._find_speakers(self._diarization, has_expired)
        expired = self._deadline.limit.expectation if has_expired else None
        build = TranscriptBuilder(self._resources, self._options, self._timeline).build
        found = (self._detector, speakers, self._edits.redacted)
        return await asyncio.to_thread(build, self._text, self._producer, *found, expired)

    @property
    def starved_s(self) -> float:
        """For how many seconds there has been nothing to decode, because no more audio has arrived."""
        return self._producer.starved_s

    def abort(self) -> None:
        """Make `run` raise Cancelled. May be called from any thread."""
        self._producer.fail(Cancelled("the worker is shutting down"))

    def close(self) -> None:
        """Stop all background work for this request."""
        self._producer.close()
        self._engine.cancel()
        self._known_speakers.close()
        if self._diarization is not None:
            self._diarization.stop_hearing()

    def free(self) -> None:
        """Delete the downloaded bytes. This blocks, so do not call it in an event loop."""
        self._producer.free()

    async def _decode_in_time(self) -> bool:
        """Decode all audio, and return whether the time sufficed.

        Raises DeadlineExceeded if it did not, and the request accepts no partial transcript.
        """
        timeout = asyncio.timeout(self._deadline.limit.seconds)
        try:
            async with timeout:
                with self._timeline.span("transcribe"):
                    await self._decode_all()
        except TimeoutError:
            if not timeout.expired():
                raise
            if not self._options.partial:
                told = f"{self._deadline.num_windows} windows were decoded by then"
                raise DeadlineExceeded(f"{self._deadline.limit.expectation}; {told}") from None
            self._finalize()
            return False
        self._text.end()
        self._report_progress(self._producer.seconds, self._producer.seconds)
        return True

    async def _find_speakers(self, diarization: Diarization, has_expired: bool) -> list[SpeakerActivity]:
        """Return who spoke when, as far as it has been heard if the time has expired. Raises DeadlineExceeded."""
        with self._timeline.span("diarize"):
            found = await diarization.finish(PARTIAL_SPEAKERS_S if has_expired else self._deadline.left_s)
        if found is None:
            raise DeadlineExceeded(f"{self._deadline.limit.expectation}; the speakers were not told apart by then")
        return await asyncio.to_thread(self._named, found)

    def _named(self, found: Sequence[SpeakerActivity]) -> list[SpeakerActivity]:
        return [replace(each, names=self._known_speakers.names_in(each)) for each in found]

    async def _decode_all(self) -> None:
        """Decode all windows concurrently, or one by one in each channel if each window needs the previous text."""
        first_windows = await self._detect_language()
        previous: dict[int | None, asyncio.Task[str]] = {}  # the task that decodes each channel's latest window
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._known_speakers.hear())
                while window := first_windows.pop(0) if first_windows else await self._next_window():
                    task = tasks.create_task(self._decode(window, previous.get(window.channel)))
                    if self._options.condition_on_previous_text:
                        previous[window.channel] = task
        except BaseExceptionGroup as group:  # the first failure has cancelled the other tasks
            raise group.exceptions[0] from None

    async def _next_window(self) -> Window | None:
        """Wait for the next window and return it, or None after the last one. Raises the producer's error."""
        window = await self._producer.next_window()
        if window is not None:
            self._text.add(window)
        return window

    async def _detect_language(self) -> list[Window | None]:
        """Detect the language if needed, and return the windows that were asked, none of which is decoded yet.

        Only one window is taken if no detection is needed. If the audio ends before the language is known, the last
        item of the list is None.
        """
        windows = [await self._next_window()]
        while (window := windows[-1]) is not None and not self._detector.is_done:
            self._detector.add(await self._engine.submit(window.with_params(detect_only=True)), window.seconds)
            if not self._detector.is_done:
                windows.append(await self._next_window())
        return windows

    async def _decode(self, window: Window, previous: asyncio.Task[str] | None) -> str:
        """Decode a window, and return the prompt for the next window.

        This window's prompt is the result of the task `previous`, or the request's own prompt if `previous` is None.
        """
        prompt = await previous if previous else first_prompt(self._options)
        options = self._options
        params = {"language": self._detector.language, "task": options.task, "hotwords": hotwords_of(options)}
        decoded = await self._decoder.decode(window.with_params(prompt=prompt, **params))
        self._text.complete(window, decoded)
        self._producer.release_window()
        self._deadline.count(window, self._producer)
        decoded_until_s = self._deadline.decoded_until_s
        self._report_progress(min(decoded_until_s, self._producer.duration or decoded_until_s), self._producer.duration)
        return next_prompt(prompt, decoded, self._options)

    def _report_progress(self, done_s: float, total_s: float | None) -> None:
        """Report the seconds of audio that are done, of how many, and the text that can no longer change."""
        progress = Progress(done_s, total_s, tuple(self._finalize()))
        if self._progress is not None:
            self._progress(progress)

    def _finalize(self) -> list[Segment]:
        """Return the segments that became final since the last call."""
        for channel, seconds in self._producer.watermarks.items():
            self._text.advance_watermark(channel, seconds)
        return self._text.finalize(self._producer.channels)
