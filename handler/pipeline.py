"""One request from its source to its transcript: intake, reader, assemble. Knows no door and no model.

Downloading and decoding to samples run in threads of their own, the engine in another; the event loop never blocks.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from handler import logs
from handler.assemble import Passage, assembled, gap_warnings, measured, most_spoken
from handler.audio.fetch import Fetcher
from handler.budget import Budget
from handler.errors import AsrError, Cancelled, DeadlineExceeded, Internal, InvalidRequest, Overloaded
from handler.formats import text_of
from handler.intake import LANGUAGE_WINDOWS, Intake
from handler.longform import Engine, Window, WindowResult
from handler.reader import CONTEXT, Reader, Reading
from handler.runner import Runner
from handler.schema import MULTI, SAMPLE_RATE, AudioSource, Options, Transcript
from handler.settings import Settings
from handler.timeline import Timeline

SURE = 0.9  # probability of a language that needs no more windows
TRUSTED = 0.5  # temperature above which a text does not help the next window. Source: SYSTRAN/faster-whisper, prompt_reset_on_temperature


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come."""

    done_s: float  # seconds of audio decoded
    total_s: float | None  # seconds of audio in all, where it is known


ProgressCallback = Callable[[Progress], None]


class Pipeline:
    """Transcribes many requests at once on one engine. `transcribe` may be awaited in any event loop."""

    def __init__(self, engine: Engine, settings: Settings, start: Timeline | None = None) -> None:
        """`start` is where the time went until now; the first transcript tells it."""
        settings.check_window(engine.longest_window_s)
        self._start = start
        self._behind: threading.Thread | None = None
        self.engine = engine
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self.runner = Runner(engine)
        # The few that settle the language, for everybody; and for whoever is alone, what fills all rows while these wait.
        self.windows = Budget(LANGUAGE_WINDOWS, engine.rows)
        self.workers = threading.Semaphore(max(1, (os.cpu_count() or 1) // 2))  # threads that decode audio at a time
        # Each request needs two threads at most, one that downloads and one that decodes, so none waits for another's.
        self.threads = ThreadPoolExecutor(2 * settings.max_requests, thread_name_prefix="audio", initializer=_work_alone)
        self._requests: set[_Request] = set()

    async def transcribe(self, source: AudioSource, options: Options, progress: ProgressCallback | None = None) -> Transcript:
        """The transcript of one source. Raises AsrError; cancelling stops download, decoding and waiting windows.

        `progress` is called in the event loop, after every window and at the end.
        """
        self._check(options)
        self.check_room()
        request = _Request(self, options, progress)
        self._requests.add(request)
        limit = asyncio.timeout(self.settings.request_timeout_s)
        try:
            async with limit:
                return await request.run(source)
        except AsrError:
            raise
        except Exception as exc:
            if limit.expired():
                expected = f"expected an answer within {self.settings.request_timeout_s:g} s (REQUEST_TIMEOUT_S)"
                raise DeadlineExceeded(f"{expected}; {len(request.passages)} windows were decoded by then") from None
            logs.error("request_crashed", exc)
            raise Internal(f"a fault of this worker: {type(exc).__name__}") from exc
        finally:
            self._requests.discard(request)
            request.close()
            await asyncio.shield(asyncio.to_thread(request.free))

    def cold_start(self) -> dict[str, float] | None:
        """Where the time of this process went until its first transcript, seconds; None from the second one on."""
        start, self._start = self._start, None
        return start.seconds() if start else None

    def behind(self, work: Callable[[], None]) -> None:
        """Do something that nobody waits for but `close`."""
        self._behind = threading.Thread(target=work, name="behind")
        self._behind.start()

    def check_room(self) -> None:
        """Raise Overloaded where one more request would be too many."""
        if len(self._requests) >= self.settings.max_requests:
            raise Overloaded(f"expected at most {self.settings.max_requests} requests at once (MAX_REQUESTS)")

    def close(self) -> None:
        """Stop the engine; requests still running end as cancelled. From any thread."""
        self.runner.close()
        if self._behind is not None:
            self._behind.join()
        for request in tuple(self._requests):
            request.abort()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, options: Options) -> None:
        languages, rows = self.engine.languages, self.engine.rows
        if max(options.beam_size, options.best_of or 1) > rows:
            name = "beam_size" if options.beam_size > rows else "best_of"
            raise InvalidRequest(f"{name} must be at most BATCH_SIZE, which is {rows}; got {getattr(options, name)}")
        if options.language == MULTI and not self.engine.detects_language:
            raise InvalidRequest(f"language multi needs a multilingual model; {self.engine.model_id} is not")
        if options.language not in (None, MULTI, *languages):
            known = ", ".join(languages) if len(languages) < 10 else f"one of {len(languages)} others"
            raise InvalidRequest(f"language {options.language!r} is not known to model {self.engine.model_id}; expected {known}")
        if options.task == "translate" and not self.engine.detects_language:
            raise InvalidRequest(f"task translate needs a multilingual model; {self.engine.model_id} is not")


class _Request:
    """One request on its way through the house."""

    def __init__(self, house: Pipeline, options: Options, progress: ProgressCallback | None) -> None:
        self._house = house
        self._options = options
        self._prompt = options.prompt.strip()[-CONTEXT:]
        self._progress = progress
        self._timeline = Timeline()
        self._loop = asyncio.get_running_loop()
        self._cut: asyncio.Queue[Window | BaseException | None] = asyncio.Queue()
        self._intake = Intake(
            house.settings,
            house.fetcher,
            house.threads,
            self._timeline,
            self._hand_over,
            house.windows.share(own_only=options.condition_on_previous_text),
            house.workers,
        )
        self._reader = Reader(self._submit, options, house.engine.rows)
        self.passages: list[Passage] = []
        self._done_s = 0.0  # how far into the audio a window has been decoded
        self._language: str | None = None if options.language == MULTI else options.language
        self._language_probability: float | None = None

    async def run(self, source: AudioSource) -> Transcript:
        self._intake.start(source, self._options)
        with self._timeline.span("transcribe"):
            await self._consume()
        if self._progress is not None:
            self._progress(Progress(self._intake.seconds, self._intake.seconds))
        return await asyncio.to_thread(self._transcript)

    def abort(self) -> None:
        """End `run` as cancelled."""
        self._hand_over(Cancelled("the worker is shutting down"))

    def close(self) -> None:
        """Stop everything that still runs for this request."""
        self._intake.close()
        self._house.runner.cancel(self)

    def free(self) -> None:
        """Give back memory and disk; not in an event loop."""
        self._intake.free()

    def _hand_over(self, item: Window | BaseException | None) -> None:
        """Take what the intake delivers; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cut.put_nowait, item)

    async def _next(self) -> Window | None:
        """The next window, or None after the last one. Raises what the intake met."""
        item = await self._cut.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def _submit(self, window: Window) -> WindowResult:
        return await asyncio.wrap_future(self._house.runner.submit(self, window))

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
        if ahead[0] is None or self._language is not None or self._options.language == MULTI or not self._house.engine.detects_language:
            return ahead
        heard: dict[str, float] = {}  # probability by language, weighed by seconds
        while (window := ahead[-1]) is not None:
            result = await self._submit(window.asked(detect_only=True))
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
        return window.asked(language=self._language, task=options.task, prompt=said, hotwords=options.hotwords.strip()[:CONTEXT])

    async def _decode(self, window: Window, before: asyncio.Task[str] | None) -> str:
        """Decode a window; gives back the text that the next one is to be decoded after."""
        said = await before if before else self._prompt
        reading = await self._reader.read(self._asked(window, said))
        self.passages.append(Passage(window.start, window.end, window.speech, window.channel, reading.segments))
        self._intake.done()
        self._done_s = max(self._done_s, window.end / SAMPLE_RATE)
        if self._progress is not None:
            total = self._intake.duration
            self._progress(Progress(min(self._done_s, total or self._done_s), total))
        return self._following(said, reading)

    def _following(self, said: str, reading: Reading) -> str:
        """What was said, with the text of a window behind it; without all of it where that text was little more than a guess."""
        trusted = max(TRUSTED, self._options.temperature)
        if reading.accepted and all(s.evidence is None or s.evidence.temperature <= trusted for s in reading.segments):
            return f"{said} {text_of(reading.segments)}".strip()[-CONTEXT:]
        return self._prompt

    def _transcript(self) -> Transcript:
        segments = assembled(self.passages)
        coverage = measured(self.passages, segments)
        language, probability = self._language, self._language_probability
        if self._options.language == MULTI or (language is None and segments):
            language = most_spoken(segments)
        return Transcript(
            text=text_of(segments),
            segments=tuple(segments),
            language=language,
            language_probability=probability,
            duration=self._intake.seconds,
            model=self._house.engine.model_id,
            options=self._options,
            timing=self._timeline.seconds(),
            cold_start=self._house.cold_start(),
            coverage=coverage,
            warnings=(*self._intake.warnings, *self._reader.warnings(), *gap_warnings(coverage)),
        )


def _work_alone() -> None:
    from handler.device import work_alone

    work_alone()
