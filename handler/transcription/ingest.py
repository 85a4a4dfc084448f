"""The audio of one request from its source to windows, in a thread of its own. Knows no engine and no event loop.

Bytes are decoded while more of them still arrive, and no more windows are cut than there is room for, so a long file
takes the memory of a short one. Only so many threads work at a time as leave the processor to the model and the doors; one
that waits for bytes or for room lets others work, and so it does after each window.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from handler.audio.chunking import LONGEST_GAP_S, SpeechChunker
from handler.audio.decode import AudioDecoder
from handler.audio.fetch import Fetcher
from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.errors import Cancelled, InvalidRequest, TooLong
from handler.schema.options import MULTI, Options
from handler.schema.window import SAMPLE_RATE, Samples, Window
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.window_quota import RequestQuota

LANGUAGE_WINDOWS = 4  # at most so many windows decide on the language of a request before one of them is decoded
MULTI_GAP_S = 0.8  # where languages change, they do so after a pause: a window ends sooner

FLOOR_S = 2.0  # of audio between two notes on how far a channel is


@dataclass(frozen=True, slots=True)
class Watermark:
    """No window of a channel will begin before a place."""

    channel: int | None
    seconds: float


Deliver = Callable[[Window | Watermark | BaseException | None], None]


class WindowProducer:
    """Hands the windows of one source to `deliver`, and how far it is; then None, or whatever ended it before."""

    def __init__(
        self,
        settings: Settings,
        fetcher: Fetcher,
        threads: ThreadPoolExecutor,
        timeline: Timeline,
        deliver: Deliver,
        room: RequestQuota,
        workers: threading.Semaphore,
    ) -> None:
        self.seconds = 0.0  # of audio, decoded to samples
        self.channels: tuple[int | None, ...] = (None,)  # those that windows may come of, known before the first one comes
        self._settings = settings
        self._fetcher = fetcher
        self._threads = threads
        self._timeline = timeline
        self._deliver = deliver
        self._spool: Spool | None = None
        self._decoder: AudioDecoder | None = None
        self._vad_s = 0.0  # of this thread, for finding speech and cutting at it
        self._over = threading.Event()
        self._room = room
        self._workers = workers

    @property
    def duration(self) -> float | None:
        """Seconds of audio that the container promises, where it does."""
        return self._decoder.duration if self._decoder else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the file."""
        return tuple(self._decoder.warnings) if self._decoder else ()

    def start(self, source: AudioSource, options: Options) -> None:
        """Begin to read, in threads."""
        self._threads.submit(self._run, source, options)

    def done(self) -> None:
        """A window that was delivered is decoded: there is room for another."""
        self._room.give()

    def close(self) -> None:
        """Stop reading; from any thread."""
        self._over.set()
        self._room.close()
        if self._spool is not None:
            self._spool.stop()

    def free(self) -> None:
        """Give back what the bytes took; not in an event loop."""
        if self._spool is not None:
            self._spool.close()

    def _run(self, source: AudioSource, options: Options) -> None:
        end: BaseException | None = None
        began = time.thread_time()
        try:
            with self._workers:
                self._read(self._open(source), options)
        except BaseException as exc:
            end = exc
        try:
            if (growing := self._spool or source.growing) is not None:
                growing.check()  # what a download met says more than what a decoder made of its end
        except BaseException as exc:
            end = exc
        self._timeline.add("decode", time.thread_time() - began - self._vad_s)
        self._timeline.add("vad", self._vad_s)
        if not self._over.is_set():
            self._deliver(end)
        elif self._spool is not None:  # made while `close` was running
            self._spool.close()

    def _open(self, source: AudioSource) -> BinaryIO:
        """The source as a file; a download runs on behind it."""
        if source.file is not None:
            return source.file
        if source.growing is not None:
            return source.growing.reader(self._idle)  # type: ignore[no-any-return]
        if source.base64 is not None:
            return self._fetcher.decode_base64(source.base64)
        self._spool = spool = self._fetcher.spool()
        self._check_open()
        self._threads.submit(self._download, source.url or "", spool)
        return spool.reader(self._idle)  # type: ignore[return-value]

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Lets another thread work meanwhile."""
        self._workers.release()
        try:
            yield
        finally:
            self._workers.acquire()

    def _download(self, url: str, spool: Spool) -> None:
        with self._timeline.span("download"):
            self._fetcher.fill(url, spool)

    def _read(self, file: BinaryIO, options: Options) -> None:
        cutters: list[SpeechChunker] = []
        noted = 0.0
        skip = round(options.start_at * SAMPLE_RATE)  # samples still to be left out
        self._decoder = AudioDecoder(file, split=options.channels == "split")
        for block in self._decoder.blocks():
            self._check_open()
            self.seconds += len(block) / SAMPLE_RATE
            if max(self.seconds, self._decoder.duration or 0.0) > self._settings.max_duration_s:
                raise TooLong(f"expected at most {self._settings.max_duration_s:g} s of audio; got more")
            if not cutters:
                self.channels = tuple(range(block.shape[1])) if options.channels == "split" else (None,)
                cutters = [self._cutter(options, channel) for channel in self.channels]
            left_out, skip = min(skip, len(block)), max(0, skip - len(block))
            if left_out < len(block):
                for cutter, samples in zip(cutters, block[left_out:].T, strict=True):
                    self._offer(self._cut(cutter.push, samples))
            if self.seconds - noted >= FLOOR_S:
                noted = self.seconds
                for cutter, channel in zip(cutters, self.channels, strict=True):
                    self._deliver(Watermark(channel, cutter.place_s))
        if options.start_at and self.seconds <= options.start_at:
            raise InvalidRequest(f"start_at must lie before the end of the audio, which is {self.seconds:.3f} s long", "start_at")
        for cutter in cutters:
            self._offer(self._cut(cutter.finish))

    def _cut(self, work: Callable[..., list[Window]], *given: Samples) -> list[Window]:
        """The windows that a cutter has made, its time measured."""
        began = time.thread_time()
        try:
            return work(*given)
        finally:
            self._vad_s += time.thread_time() - began

    def _cutter(self, options: Options, channel: int | None) -> SpeechChunker:
        from handler.audio.vad import VoiceActivity

        return SpeechChunker(
            self._settings.chunk_length_s,
            self._settings.stride_length_s,
            VoiceActivity(),
            everything=not options.vad,
            longest_gap_s=MULTI_GAP_S if options.language == MULTI else LONGEST_GAP_S,
            channel=channel,
            start=round(options.start_at * SAMPLE_RATE),
        )

    def _offer(self, windows: list[Window]) -> None:
        """Hand each window over as soon as there is room for it."""
        for window in windows:
            with self._idle():
                self._room.take()
            self._check_open()
            self._deliver(window)

    def _check_open(self) -> None:
        if self._over.is_set():
            raise Cancelled("the request is over")
