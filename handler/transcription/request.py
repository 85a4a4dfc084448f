"""One request on its way through the house: intake, reader, order, transcript. Knows no door and no model."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from handler.audio.fetch import Fetcher
from handler.audio.source import AudioSource
from handler.engine.runner import Runner
from handler.errors import Cancelled, DeadlineExceeded, TooLong
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Progress, ProgressCallback, Transcript, text_of
from handler.schema.window import SAMPLE_RATE, Engine, Window, WindowResult
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.ingest import LANGUAGE_WINDOWS, Watermark, WindowProducer
from handler.transcription.merge import Passage, gap_warnings, measure_coverage, most_spoken
from handler.transcription.reorder_buffer import ReorderBuffer
from handler.transcription.usage import Counters
from handler.transcription.window_cache import WindowCache
from handler.transcription.window_decoder import CONTEXT, WindowDecoder, DecodedWindow
from handler.transcription.window_quota import WindowQuota
from handler.transcription.word_edits import keep_words

SURE = 0.9  # probability of a language that needs no more windows
TRUSTED = 0.5  # temperature above which a text does not help the next window. Source: SYSTRAN/faster-whisper, prompt_reset_on_temperature
TRIAL_S, TRIAL_WINDOWS = 5.0, 8  # seconds of the device's work, and windows of a request, that tell how long the rest will take
DOUBT = 1.25  # a request is refused where the device alone would take so many times longer than there is


@dataclass(slots=True)
class Shared:
    """What all requests share."""

    settings: Settings
    engine: Engine
    runner: Runner
    fetcher: Fetcher
    threads: ThreadPoolExecutor  # for what blocks
    workers: threading.Semaphore  # threads that decode audio at a time
    windows: WindowQuota
    readings: WindowCache | None  # of this process and of others before it
    about: Mapping[str, str]  # what an account says of the process
    cold_start: Callable[[], dict[str, float] | None]
    counters: Counters  # of what they have done
    decoded_s: float = 0.0  # seconds of windows that the device has decoded


class Request:
    """One request. `run` once, then `close` and `free`."""

    def __init__(self, shared: Shared, options: Options, progress: ProgressCallback | None, limit_s: float | None) -> None:
        """`limit_s`: seconds that the door can wait, where that is less than the settings allow."""
        self._shared = shared
        self._options = options
        self._prompt = options.prompt.strip()[-CONTEXT:]
        self._progress = progress
        self._timeline = Timeline()
        self._limited = limit_s is not None and limit_s < shared.settings.request_timeout_s
        self._limit_s = min(shared.settings.request_timeout_s, shared.settings.request_timeout_s if limit_s is None else limit_s)
        self._loop = asyncio.get_running_loop()
        self._cut: asyncio.Queue[Window | Watermark | BaseException | None] = asyncio.Queue()
        self._intake = WindowProducer(
            shared.settings,
            shared.fetcher,
            shared.threads,
            self._timeline,
            self._hand_over,
            shared.windows.share(own_only=options.condition_on_previous_text),
            shared.workers,
        )
        self._reader = WindowDecoder(self._submit, options, shared.engine.max_batch_size)
        self._order = ReorderBuffer()
        self._warnings: list[tuple[float, str]] = []
        self._windows = 0  # decoded
        self._heard_s = 0.0  # seconds of them
        self._done_s = 0.0  # how far into the audio a window has been decoded
        self._language: str | None = None if options.language == MULTI else options.language
        self._language_probability: float | None = None

    async def run(self, source: AudioSource) -> Transcript:
        """The transcript. Raises AsrError."""
        self._intake.start(source, self._options)
        limit = asyncio.timeout(self._limit_s)
        late = False
        try:
            async with limit:
                with self._timeline.span("transcribe"):
                    await self._consume()
        except TimeoutError:
            if not limit.expired():
                raise
            if not self._options.partial:
                raise DeadlineExceeded(f"{self._expected()}; {self._windows} windows were decoded by then") from None
            late = True
        else:
            self._order.end()
            self._tell(self._intake.seconds)
        wait_s, device_s = self._shared.runner.spent(self)
        if late:
            self.close()
        self._timeline.add("wait", wait_s)
        self._timeline.add("device", device_s)
        return await asyncio.to_thread(self._transcript, late)

    def abort(self) -> None:
        """End `run` as cancelled."""
        self._hand_over(Cancelled("the worker is shutting down"))

    def close(self) -> None:
        """Stop everything that still runs for this request."""
        self._intake.close()
        self._shared.runner.cancel(self)

    def free(self) -> None:
        """Give back memory and disk; not in an event loop."""
        self._intake.free()

    def _expected(self) -> str:
        return f"expected an answer within {self._limit_s:g} s ({'the execution timeout' if self._limited else 'REQUEST_TIMEOUT_S'})"

    def _hand_over(self, item: Window | Watermark | BaseException | None) -> None:
        """Take what the intake delivers; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cut.put_nowait, item)

    async def _next(self) -> Window | None:
        """The next window, or None after the last one. Raises what the intake met."""
        while isinstance(item := await self._cut.get(), Watermark):
            self._order.floor(item.channel, item.seconds)
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            self._order.cut(item)
        return item

    async def _submit(self, window: Window) -> WindowResult:
        result = await asyncio.wrap_future(self._shared.runner.submit(self, window))
        tokens = result.evidence.tokens if result.evidence else 0
        self._shared.counters.add(windows=1, tokens=tokens, fallbacks=window.params.temperature > self._options.temperature)
        return result

    async def _consume(self) -> None:
        ahead = await self._settle_language()
        last: dict[int | None, asyncio.Task[str]] = {}  # the window before, of each channel, where the next one needs its text
        try:
            async with asyncio.TaskGroup() as tasks:
                while (window := ahead.pop(0) if ahead else await self._next()) is not None:
                    task = tasks.create_task(self._decode(window, last.get(window.channel)))
                    if self._options.condition_on_previous_text:
                        last[window.channel] = task
        except BaseExceptionGroup as group:  # the first failure has cancelled the others
            raise group.exceptions[0] from None

    async def _settle_language(self) -> list[Window | None]:
        """Find out the language by the first windows, together, until one language is sure; gives back the windows taken for it."""
        ahead = [await self._next()]
        if ahead[0] is None or self._language is not None or self._options.language == MULTI or not self._shared.engine.detects_language:
            return ahead
        heard: dict[str, float] = {}  # probability by language, weighed by seconds
        while (window := ahead[-1]) is not None:
            result = await self._submit(window.with_params(detect_only=True))
            if not result.languages:
                self._language = result.language
                break
            for language, probability in result.languages.items():
                heard[language] = heard.get(language, 0.0) + probability * window.seconds
            self._language = max(heard, key=heard.__getitem__)
            self._language_probability = heard[self._language] / sum(heard.values())
            if len(ahead) == LANGUAGE_WINDOWS or self._language_probability >= SURE:
                break
            ahead.append(await self._next())
        return ahead

    def _asked(self, window: Window, said: str) -> Window:
        """A window as the options want it decoded, after what was said."""
        options = self._options
        return window.with_params(language=self._language, task=options.task, prompt=said, hotwords=options.hotwords.strip()[:CONTEXT])

    async def _decode(self, window: Window, before: asyncio.Task[str] | None) -> str:
        """Decode a window; gives back the text that the next one is to be decoded after."""
        said = await before if before else self._prompt
        reading = await self._read(self._asked(window, said))
        self._warnings += reading.warnings
        self._order.done(window, Passage(window.start, window.end, window.speech, window.channel, reading.segments))
        self._intake.done()
        self._windows += 1
        self._heard_s += window.seconds
        self._done_s = max(self._done_s, window.end / SAMPLE_RATE)
        self._check_time()
        self._tell(min(self._done_s, self._intake.duration or self._done_s))
        return self._following(said, reading)

    async def _read(self, window: Window) -> DecodedWindow:
        """What a window says; from what was kept of it, where it was."""
        readings = self._shared.readings
        if readings is None:
            return await self._decoded(window)
        key = await asyncio.to_thread(readings.key, window, self._options, self._shared.about)
        reading = await asyncio.to_thread(readings.get, key)
        if reading is None:
            reading = await self._decoded(window)
            await asyncio.to_thread(readings.put, key, reading)
        return reading

    async def _decoded(self, window: Window) -> DecodedWindow:
        reading = await self._reader.read(window)
        self._shared.decoded_s += window.seconds
        return reading

    def _tell(self, done_s: float) -> None:
        """Tell how far it is, and what has become settled by now."""
        final_segments = tuple(self._order.finalize(self._intake.channels))
        if self._progress is not None:
            total = self._intake.seconds if done_s == self._intake.seconds else self._intake.duration
            self._progress(Progress(done_s, total, final_segments))

    def _check_time(self) -> None:
        """Raise TooLong as soon as it is plain that the time will not suffice, even if the device does nothing else."""
        total, device_s = self._intake.duration, self._shared.runner.device_s
        if total is None or self._options.partial or not self._limited or self._windows < TRIAL_WINDOWS or device_s < TRIAL_S:
            return
        passed_s = self._done_s - self._options.start_at
        left_s = (total - self._done_s) * min(1.0, self._heard_s / max(passed_s, 1e-6))  # of windows, if silence is as frequent
        elapsed_s, needed_s = self._timeline.total(), left_s * device_s / max(self._shared.decoded_s, 1e-6)
        if needed_s > DOUBT * max(0.0, self._limit_s - elapsed_s):
            shown = f"{total:.0f} s of audio would take about {elapsed_s + needed_s:.0f} s here"
            raise TooLong(f"{self._expected()}; {shown}: allow more (policy.executionTimeout), or ask for a part (partial, start_at)")

    def _following(self, said: str, reading: DecodedWindow) -> str:
        """What was said, with the text of a window behind it; without all of it where that text was little more than a guess."""
        trusted = max(TRUSTED, self._options.temperature)
        if reading.accepted and all(s.evidence is None or s.evidence.temperature <= trusted for s in reading.segments):
            return f"{said} {text_of(reading.segments)}".strip()[-CONTEXT:]
        return self._prompt

    def _transcript(self, late: bool) -> Transcript:
        segments = self._order.segments
        reached = max(self._options.start_at, self._order.reached(self._intake.channels)) if late else None
        if reached is not None:  # of several channels, one may have told more; whoever goes on there hears that again
            segments = keep_words(segments, lambda word: word.start < reached)
        passages = [one for one in self._order.passages if reached is None or one.end / SAMPLE_RATE <= reached]
        coverage = measure_coverage(passages, segments)
        language, probability = self._language, self._language_probability
        if self._options.language == MULTI or (language is None and segments):
            language = most_spoken(segments)
        cold_start = self._shared.cold_start()
        self._shared.counters.add(
            audio_s=self._intake.seconds,
            device_s=self._timeline.seconds()["device"],
            speech_s=coverage.speech_s,
            covered_s=coverage.covered_s,
            gaps=len(coverage.gaps),
        )
        warnings = [*self._intake.warnings, *(text for _, text in sorted(self._warnings)), *gap_warnings(coverage)]
        if reached is not None:
            warnings.insert(0, f"{DeadlineExceeded.code}: {self._expected()}; what comes behind {reached:g} s is missing")
        return Transcript(
            text=text_of(segments),
            segments=tuple(segments),
            language=language,
            language_probability=probability,
            duration=self._intake.seconds,
            model=self._shared.engine.model_id,
            options=self._options,
            timing=self._timeline.seconds(),
            cold_start=cold_start,
            coverage=coverage,
            account=self._account(cold_start is not None),
            resume_at=reached,
            warnings=tuple(warnings),
        )

    def _account(self, cold: bool) -> dict[str, str | float | bool]:
        """What the request was, and what it took of which process."""
        total_s, price = self._timeline.total(), self._shared.settings.gpu_price_per_second
        device_s = self._timeline.seconds()["device"]
        return {
            "audio_s": round(self._intake.seconds, 3),
            "total_s": round(total_s, 4),
            "real_time_factor": round(self._intake.seconds / total_s, 3),
            "device_s": device_s,
            "cold": cold,
            **self._shared.about,
            **({} if price is None else {"price": round(device_s * price, 8)}),
        }
