"""One request from its source to its transcript: fetch, decode, cut, engine, assemble. `build` wires the house. Knows no door.

Every stage hands over in bounded steps, so windows are being decoded while the rest of a file still arrives, and a long
file takes the memory of a short one. Downloading and decoding run in threads of their own; the event loop never blocks.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from handler import logs
from handler.audio.decode import AudioDecoder
from handler.audio.fetch import Fetcher
from handler.audio.spool import Spool
from handler.errors import AsrError, Cancelled, Internal, InvalidRequest, Overloaded, TooLong
from handler.formats import text_of
from handler.longform import Cutter, Engine, Window, WindowResult, placed, trimmed
from handler.models import find_model
from handler.runner import Runner
from handler.schema import SAMPLE_RATE, AudioSource, Options, Segment, Transcript
from handler.settings import Settings
from handler.speech import SpeechCutter
from handler.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come."""

    done_s: float  # seconds of audio decoded
    total_s: float | None  # seconds of audio in all, where it is known


ProgressCallback = Callable[[Progress], None]


class Pipeline:
    """Transcribes many requests at once on one engine. `transcribe` may be awaited in any event loop."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        settings.check_window(engine.longest_window_s)
        self.engine = engine
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self.runner = Runner(engine)
        # Each request needs two threads at most, one that downloads and one that decodes, so none waits for another's.
        self.threads = ThreadPoolExecutor(2 * settings.max_requests, thread_name_prefix="audio")
        self._requests: set[_Request] = set()

    async def transcribe(self, source: AudioSource, options: Options, progress: ProgressCallback | None = None) -> Transcript:
        """The transcript of one source. Raises AsrError; cancelling stops download, decoding and waiting windows.

        `progress` is called in the event loop, after every window and at the end.
        """
        self._check(options)
        self.check_room()
        request = _Request(self, source, options, progress)
        self._requests.add(request)
        try:
            return await request.run()
        except AsrError:
            raise
        except Exception as exc:
            logs.error("request_crashed", exc)
            raise Internal(f"a fault of this worker: {type(exc).__name__}") from exc
        finally:
            self._requests.discard(request)
            request.close()

    def check_room(self) -> None:
        """Raise Overloaded where one more request would be too many."""
        if len(self._requests) >= self.settings.max_requests:
            raise Overloaded(f"expected at most {self.settings.max_requests} requests at once (MAX_REQUESTS)")

    def close(self) -> None:
        """Stop the engine; requests still running end as cancelled. From any thread."""
        self.runner.close()
        for request in tuple(self._requests):
            request.abort()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, options: Options) -> None:
        languages = self.engine.languages
        if options.language and options.language not in languages:
            known = ", ".join(languages) if len(languages) < 10 else f"one of {len(languages)} others"
            raise InvalidRequest(f"language {options.language!r} is not known to model {self.engine.model_id}; expected {known}")
        if options.task == "translate" and not self.engine.detects_language:
            raise InvalidRequest(f"task translate needs a multilingual model; {self.engine.model_id} is not")


class _Request:
    """One request on its way through the house."""

    def __init__(self, house: Pipeline, source: AudioSource, options: Options, progress: ProgressCallback | None) -> None:
        self._house = house
        self._source = source
        self._options = options
        self._progress = progress
        self._timeline = Timeline()
        self._spool: Spool | None = None
        self._decoder: AudioDecoder | None = None
        self._over = threading.Event()
        self._in_flight = 2 * house.settings.batch_size
        self._room = threading.Semaphore(self._in_flight)  # windows cut and not yet decoded
        self._cut: asyncio.Queue[Window | BaseException | None] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._segments: list[Segment] = []
        self._warnings: list[str] = []
        self._seconds = 0.0  # of audio, decoded to samples
        self._done_s = 0.0  # how far into the audio a window has been decoded
        self._language: str | None = options.language
        self._language_probability: float | None = None

    async def run(self) -> Transcript:
        self._loop = asyncio.get_running_loop()
        self._house.threads.submit(self._produce)
        with self._timeline.span("transcribe"):
            await self._consume()
        if self._progress is not None:
            self._progress(Progress(self._seconds, self._seconds))
        return self._transcript()

    def abort(self) -> None:
        """End `run` as cancelled."""
        self._hand_over(Cancelled("the worker is shutting down"))

    def close(self) -> None:
        """Stop everything that still runs for this request."""
        self._over.set()
        self._room.release(self._in_flight)
        if self._spool is not None:
            self._spool.close()
        self._house.runner.cancel(self)

    # In a thread: bytes to windows.

    def _produce(self) -> None:
        end: BaseException | None = None
        began = time.thread_time()
        try:
            file = self._open()
            try:
                self._read(file)
            finally:
                if self._spool is not None:
                    self._spool.check()
        except BaseException as exc:
            end = exc
        self._timeline.add("decode", time.thread_time() - began)
        self._hand_over(end)
        if self._over.is_set() and self._spool is not None:  # made while `close` was running
            self._spool.close()

    def _open(self) -> BinaryIO:
        """The source as a file; a download runs on behind it."""
        if self._source.file is not None:
            return self._source.file
        if self._source.base64 is not None:
            return self._house.fetcher.decode_base64(self._source.base64)
        self._spool = spool = self._house.fetcher.spool()
        self._check_open()
        self._house.threads.submit(self._download, self._source.url or "", spool)
        return spool.reader()  # type: ignore[return-value]

    def _download(self, url: str, spool: Spool) -> None:
        with self._timeline.span("download"):
            self._house.fetcher.fill(url, spool)

    def _read(self, file: BinaryIO) -> None:
        settings = self._house.settings
        cutter = self._cutter()
        self._decoder = AudioDecoder(file)
        for block in self._decoder.blocks():
            self._check_open()
            self._seconds += len(block) / SAMPLE_RATE
            if max(self._seconds, self._decoder.duration or 0.0) > settings.max_duration_s:
                raise TooLong(f"expected at most {settings.max_duration_s:g} s of audio; got more")
            for window in cutter.push(block):
                self._offer(window)
        for window in cutter.finish():
            self._offer(window)

    def _cutter(self) -> "Cutter | SpeechCutter":
        longest, stride = self._house.settings.chunk_length_s, self._house.settings.stride_length_s
        if not self._options.vad:
            return Cutter(longest, stride)
        from handler.audio.vad import VoiceActivity

        return SpeechCutter(longest, stride, VoiceActivity())

    def _offer(self, window: Window) -> None:
        """Hand a window over as soon as there is room for it."""
        self._room.acquire()
        self._check_open()
        self._hand_over(window)

    def _check_open(self) -> None:
        if self._over.is_set():
            raise Cancelled("the request is over")

    def _hand_over(self, item: Window | BaseException | None) -> None:
        if self._loop is not None and not self._over.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cut.put_nowait, item)

    # In the event loop: windows to text.

    async def _next(self) -> Window | None:
        """The next window, or None after the last one. Raises what the producer met."""
        item = await self._cut.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def _consume(self) -> None:
        ahead = [await self._next()]
        if ahead[0] is not None and self._language is None and self._house.engine.detects_language:
            # The language of a single window is found while it is decoded; several have to agree first.
            ahead.append(await self._next())
            if ahead[1] is not None:
                await self._detect(ahead[0])
        try:
            async with asyncio.TaskGroup() as tasks:
                while (window := ahead.pop(0) if ahead else await self._next()) is not None:
                    tasks.create_task(self._decode(self._asked(window)))
        except BaseExceptionGroup as group:  # the first failure has cancelled the others
            raise group.exceptions[0] from None

    def _asked(self, window: Window) -> Window:
        """A window as the options want it decoded."""
        return replace(window, language=self._language, task=self._options.task, prompt=self._options.prompt)

    async def _detect(self, window: Window) -> None:
        """Settle the language of the whole request by its first window."""
        result = await self._submit(replace(window, detect_only=True))
        self._language, self._language_probability = result.language, result.language_probability

    async def _decode(self, window: Window) -> None:
        """Decode a window, and what the engine left of it, until all of it is done."""
        todo = [window]
        while todo:
            result = await self._submit(todo[0])
            self._segments += placed(todo[0], result)
            self._note(todo[0], result)
            todo = trimmed(replace(todo[0].since(result.rest_s), language=result.language)) if result.rest_s else []
        self._room.release()
        self._done_s = max(self._done_s, window.start / SAMPLE_RATE + window.seconds)
        if self._progress is not None:
            total = self._decoder.duration if self._decoder else None
            self._progress(Progress(min(self._done_s, total or self._done_s), total))

    async def _submit(self, window: Window) -> WindowResult:
        return await asyncio.wrap_future(self._house.runner.submit(self, window))

    def _note(self, window: Window, result: WindowResult) -> None:
        if self._language is None:
            self._language, self._language_probability = result.language, result.language_probability
        if result.evidence is not None and not result.rest_s and (result.evidence.looped or result.evidence.exhausted):
            what = "the text began to repeat itself and was cut" if result.evidence.looped else "more was said than could be decoded"
            begin = window.start / SAMPLE_RATE
            self._warnings.append(f"between {begin:.1f} and {begin + window.seconds:.1f} s {what}: words may be missing")

    def _transcript(self) -> Transcript:
        segments = tuple(sorted(self._segments, key=lambda segment: segment.start))
        return Transcript(
            text=text_of(segments),
            segments=segments,
            language=self._language,
            language_probability=self._language_probability,
            duration=self._seconds,
            model=self._house.engine.model_id,
            task=self._options.task,
            timing=self._timeline.seconds(),
            warnings=(*(self._decoder.warnings if self._decoder else ()), *self._warnings),
        )


def build(settings: Settings) -> Pipeline:
    """The house with the model that the settings name, loaded. Raises ModelUnavailable, SettingsError."""
    timeline = Timeline()
    with timeline.span("import_engine"):
        from handler.device import choose_device
        from handler.whisper.engine import load_engine
    choose_device(settings.device)  # a bad one ends the start before anything is downloaded
    with timeline.span("find_model"):
        folder = find_model(settings.model_id, settings.cache_dir)
    with timeline.span("load_engine"):
        engine = load_engine(folder, settings)
    with timeline.span("load_vad"):
        from handler.audio.vad import VoiceActivity

        VoiceActivity()
    pipeline = Pipeline(engine, settings)
    logs.info("ready", model=settings.model_id, **timeline.seconds())
    return pipeline
