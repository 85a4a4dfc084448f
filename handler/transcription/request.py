"""Run one request: cut windows, decode them, reorder and merge their text. Knows no entry point and no model."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from handler.audio.fetch import Fetcher
from handler.audio.process_pool import AudioProcessPool
from handler.audio.source import AudioSource
from handler.engine.runner import Runner
from handler.errors import Cancelled, DeadlineExceeded, TooLong
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Coverage, Progress, ProgressCallback, Transcript, text_of
from handler.schema.window import SAMPLE_RATE, Engine, Window, WindowResult
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.deadline_estimate import DeadlineEstimate, is_hopeless
from handler.transcription.decode_turns import DecodeTurns
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.fallback import is_finite
from handler.transcription.ingest import ProducerItem, Watermark, WindowProducer
from handler.transcription.language_detector import LanguageDetector
from handler.transcription.merge import dominant_language, gap_warnings, measure_coverage
from handler.transcription.reorder_buffer import ReorderBuffer
from handler.transcription.usage import Counters
from handler.transcription.usage_report import build_account
from handler.transcription.window_cache import WindowCache
from handler.transcription.window_decoder import MAX_CONTEXT_CHARS, WindowDecoder
from handler.transcription.window_quota import WindowQuota
from handler.transcription.word_edits import keep_words

# Text decoded at a higher temperature does not become context for the next window.
# Source: SYSTRAN/faster-whisper, prompt_reset_on_temperature.
MAX_CONTEXT_TEMPERATURE = 0.5


@dataclass(slots=True)
class SharedResources:
    """The resources that all requests of a pipeline share."""

    settings: Settings
    engine: Engine
    runner: Runner
    fetcher: Fetcher
    threads: ThreadPoolExecutor  # threads for blocking work
    decode_turns: DecodeTurns  # limits how many requests decode audio at the same time
    audio_processes: AudioProcessPool
    window_quota: WindowQuota
    window_cache: WindowCache | None  # holds windows that this process or earlier ones decoded
    model_info: Mapping[str, str]  # added to the account of every transcript
    cold_start: Callable[[], dict[str, float] | None]
    counters: Counters
    decoded_s: float = 0.0  # seconds of audio in all windows that the device has decoded


class Request:
    """One transcription request. `producer` tells how far its audio has been read.

    Call `run` once. Afterwards call `close` to stop background work, and then `free` to delete downloaded bytes.
    """

    def __init__(
        self, resources: SharedResources, options: Options, progress: ProgressCallback | None, limit_s: float | None
    ) -> None:
        """Create a request that may take REQUEST_TIMEOUT_S, or `limit_s` seconds if that is less and not None."""
        timeout_s = resources.settings.request_timeout_s
        self._resources = resources
        self._options = options
        self._prompt = options.prompt.strip()[-MAX_CONTEXT_CHARS:]
        self._progress = progress
        self._timeline = Timeline()
        self._is_limited_by_caller = limit_s is not None and limit_s < timeout_s
        self._limit_s = timeout_s if limit_s is None else min(timeout_s, limit_s)
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[ProducerItem] = asyncio.Queue()
        self.producer = WindowProducer(
            resources.settings,
            resources.fetcher,
            resources.threads,
            self._timeline,
            self._deliver,
            resources.window_quota.for_request(reserved_only=options.condition_on_previous_text),
            resources.decode_turns,
            resources.audio_processes,
            overlaps=resources.engine.capabilities.word_times,
        )
        self._decoder = WindowDecoder(self._submit, options, resources.engine.max_batch_size)
        self._reorder_buffer = ReorderBuffer()
        self._warnings: list[tuple[float, str]] = []
        self._estimate = DeadlineEstimate(options.start_at)
        self._language: str | None = None if options.language == MULTI else options.language
        self._language_probability: float | None = None

    async def run(self, source: AudioSource) -> Transcript:
        """Transcribe a source and return the transcript.

        If time runs out, and the request accepts a partial transcript, return the text that is final by then. If the
        request accepts none, DeadlineExceeded is raised. Raises AsrError, of which DeadlineExceeded is a subclass.
        """
        self.producer.start(source, self._options)
        timeout = asyncio.timeout(self._limit_s)
        has_expired = False
        try:
            async with timeout:
                with self._timeline.span("transcribe"):
                    await self._decode_all()
        except TimeoutError:
            if not timeout.expired():
                raise
            if not self._options.partial:
                raise DeadlineExceeded(
                    f"{self._expectation()}; {self._estimate.num_windows} windows were decoded by then"
                ) from None
            has_expired = True
        else:
            self._reorder_buffer.end()
            self._report_progress(self.producer.seconds)
        for span, seconds in zip(("wait", "device"), self._resources.runner.usage(self), strict=True):
            self._timeline.add(span, seconds)
        if has_expired:
            self.close()
        return await asyncio.to_thread(self._build_transcript, has_expired)

    def abort(self) -> None:
        """Make `run` raise Cancelled. May be called from any thread."""
        self._deliver(Cancelled("the worker is shutting down"))

    def close(self) -> None:
        """Stop all background work for this request."""
        self.producer.close()
        self._resources.runner.cancel(self)

    def free(self) -> None:
        """Delete the downloaded bytes. This blocks, so do not call it in an event loop."""
        self.producer.free()

    def _expectation(self) -> str:
        """Return the first part of the error message for a request that takes too long."""
        limit = "the execution timeout" if self._is_limited_by_caller else "REQUEST_TIMEOUT_S"
        return f"expected an answer within {self._limit_s:g} s ({limit})"

    def _deliver(self, item: ProducerItem) -> None:
        """Enqueue an item from the producer. May be called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def _next_window(self) -> Window | None:
        """Wait for the next window and return it, or None after the last one. Raises the producer's error."""
        while isinstance(item := await self._items.get(), Watermark):
            self._reorder_buffer.advance_watermark(item.channel, item.seconds)
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            self._reorder_buffer.add(item)
        return item

    async def _submit(self, window: Window) -> WindowResult:
        """Decode a window on the engine, add it to the counters, and return the result."""
        result = await asyncio.wrap_future(self._resources.runner.submit(self, window))
        num_tokens = result.evidence.tokens if result.evidence else 0
        is_fallback = window.params.temperature > self._options.temperature
        is_odd = result.evidence is not None and not is_finite(result.evidence)
        self._resources.counters.add(windows=1, tokens=num_tokens, fallbacks=is_fallback, not_finite=is_odd)
        return result

    async def _decode_all(self) -> None:
        """Decode all windows concurrently, or one by one in each channel if each window needs the previous text."""
        first_windows = await self._detect_language()
        previous: dict[int | None, asyncio.Task[str]] = {}  # the task that decodes each channel's latest window
        try:
            async with asyncio.TaskGroup() as tasks:
                while window := first_windows.pop(0) if first_windows else await self._next_window():
                    task = tasks.create_task(self._decode(window, previous.get(window.channel)))
                    if self._options.condition_on_previous_text:
                        previous[window.channel] = task
        except BaseExceptionGroup as group:  # the first failure has cancelled the other tasks
            raise group.exceptions[0] from None

    def _needs_language(self) -> bool:
        """Return whether the language must be detected before decoding begins."""
        is_open = self._language is None and self._options.language != MULTI
        return is_open and self._resources.engine.capabilities.detects_language

    async def _detect_language(self) -> list[Window | None]:
        """Detect the language from the first windows if needed, and return these windows, which are not decoded yet.

        Only one window is taken if no detection is needed. Detection stops when the language is sure enough, or after
        LANGUAGE_WINDOWS windows. If the audio ends before that, the last item of the list is None.
        """
        windows = [await self._next_window()]
        if not self._needs_language():
            return windows
        detector = LanguageDetector()
        while (window := windows[-1]) is not None:
            detector.add(await self._submit(window.with_params(detect_only=True)), window.seconds)
            self._language, self._language_probability = detector.language, detector.probability
            if detector.is_done:
                break
            windows.append(await self._next_window())
        return windows

    async def _decode(self, window: Window, previous: asyncio.Task[str] | None) -> str:
        """Decode a window, and return the prompt for the next window.

        This window's prompt is the result of the task `previous`, or the request's own prompt if `previous` is None.
        """
        prompt = await previous if previous else self._prompt
        decoded = await self._decode_cached(self._with_options(window, prompt))
        self._warnings += decoded.warnings
        self._reorder_buffer.complete(window, decoded)
        self.producer.release_window()
        self._estimate.add(window)
        self._check_deadline()
        decoded_until_s = self._estimate.decoded_until_s
        self._report_progress(min(decoded_until_s, self.producer.duration or decoded_until_s))
        return self._next_prompt(prompt, decoded)

    def _with_options(self, window: Window, prompt: str) -> Window:
        """Return a copy of a window that is decoded with the request's parameters and `prompt`."""
        options = self._options
        hotwords = options.hotwords.strip()[:MAX_CONTEXT_CHARS]
        return window.with_params(language=self._language, task=options.task, prompt=prompt, hotwords=hotwords)

    async def _decode_cached(self, window: Window) -> DecodedWindow:
        """Return the decoded window from the cache, or else decode the window and store the result in the cache."""
        cache = self._resources.window_cache
        if cache is None:
            return await self._decode_uncached(window)
        key = await asyncio.to_thread(cache.key, window, self._options, self._resources.model_info)
        decoded = await asyncio.to_thread(cache.get, key, window)
        if decoded is None:
            decoded = await self._decode_uncached(window)
            await asyncio.to_thread(cache.put, key, decoded)
        return decoded

    async def _decode_uncached(self, window: Window) -> DecodedWindow:
        decoded = await self._decoder.decode(window)
        self._resources.decoded_s += window.seconds
        return decoded

    def _next_prompt(self, prompt: str, decoded: DecodedWindow) -> str:
        """Return `prompt` plus the decoded text, or the request's own prompt if the text is not reliable."""
        max_temperature = max(MAX_CONTEXT_TEMPERATURE, self._options.temperature)
        temperatures = (segment.evidence.temperature for segment in decoded.segments if segment.evidence is not None)
        if decoded.is_accepted and all(temperature <= max_temperature for temperature in temperatures):
            return f"{prompt} {text_of(decoded.segments)}".strip()[-MAX_CONTEXT_CHARS:]
        return self._prompt

    def _report_progress(self, done_s: float) -> None:
        """Report the seconds of audio that are done, and the text that can no longer change."""
        final_segments = tuple(self._reorder_buffer.finalize(self.producer.channels))
        if self._progress is not None:
            is_done = done_s == self.producer.seconds
            total_s = self.producer.seconds if is_done else self.producer.duration
            self._progress(Progress(done_s, total_s, final_segments))

    def _check_deadline(self) -> None:
        """Raise TooLong if the device could not meet the caller's time limit even if it had no other request."""
        total_s = self.producer.duration
        if total_s is None or self._options.partial or not self._is_limited_by_caller:
            return
        remaining_s = self._estimate.remaining_s(total_s, self._resources.runner.device_s, self._resources.decoded_s)
        elapsed_s = self._timeline.total()
        if remaining_s is not None and is_hopeless(remaining_s, self._limit_s - elapsed_s):
            estimate = f"{total_s:.0f} s of audio would take about {elapsed_s + remaining_s:.0f} s here"
            advice = "allow more (policy.executionTimeout), or ask for a part (partial, start_at)"
            raise TooLong(f"{self._expectation()}; {estimate}: {advice}")

    def _build_transcript(self, has_expired: bool) -> Transcript:
        """Return the transcript. If time has expired, cut it at the time up to which all channels have final text."""
        segments, windows, resume_at = self._reorder_buffer.segments, self._reorder_buffer.windows, None
        if has_expired:
            # Some channels are further ahead. Their text is cut here, because a request that resumes here repeats it.
            final_s = self._reorder_buffer.finalized_until_s(self.producer.channels)
            resume_at = cut_s = max(self._options.start_at, final_s)
            kept = keep_words(segments, lambda word: word.start < cut_s)
            segments = [segment for segment in kept if segment.start < cut_s]
            windows = [window for window in windows if window.end / SAMPLE_RATE <= cut_s]
        coverage = measure_coverage(windows, segments)
        language = self._language
        if self._options.language == MULTI or (language is None and segments):
            language = dominant_language(segments)
        cold_start = self._resources.cold_start()
        self._count(coverage)
        return Transcript(
            text=text_of(segments),
            segments=tuple(segments),
            language=language,
            language_probability=self._language_probability,
            duration=self.producer.seconds,
            model=self._resources.engine.model_id,
            options=self._options,
            timing=self._timeline.seconds(),
            cold_start=cold_start,
            coverage=coverage,
            account=build_account(
                self.producer.seconds,
                self._timeline.total(),
                self._timeline.seconds()["device"],
                is_cold=cold_start is not None,
                price_per_s=self._resources.settings.gpu_price_per_second,
                model_info=self._resources.model_info,
            ),
            resume_at=resume_at,
            warnings=self._all_warnings(coverage, resume_at),
        )

    def _count(self, coverage: Coverage) -> None:
        """Add the finished request to the process's counters."""
        self._resources.counters.add(
            audio_s=self.producer.seconds,
            device_s=self._timeline.seconds()["device"],
            speech_s=coverage.speech_s,
            covered_s=coverage.covered_s,
            gaps=len(coverage.gaps),
        )

    def _all_warnings(self, coverage: Coverage, resume_at: float | None) -> tuple[str, ...]:
        """Return the warnings about expired time, the file, the text, and speech without text, in this order."""
        warnings = (*self.producer.warnings, *(text for _, text in sorted(self._warnings)), *gap_warnings(coverage))
        if resume_at is None:
            return warnings
        missing = f"what comes behind {resume_at:g} s is missing"
        return (f"{DeadlineExceeded.code}: {self._expectation()}; {missing}", *warnings)
