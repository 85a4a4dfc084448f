"""Turn the audio of one request into windows, in a thread of its own. Decodes nothing.

Bytes are decoded while more arrive, in an audio process of the request's own. Windows are cut only as far as the
request's quota allows, so that a long file needs no more memory than a short one. Only a limited number of requests
decode at the same time: those whose turn it is. This leaves processors to the model. A request gives up its turn after
each block of samples, and while it waits for bytes or for quota.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from handler.audio.audio_process import AudioProcess
from handler.audio.chunking import MAX_PAUSE_S, DetectedElsewhere, Detector, SpeechChunker
from handler.audio.media_report import DecodeOptions
from handler.audio.source import AudioSource
from handler.audio.spool import IN_MEMORY, Spool
from handler.audio.stored_file import StoredFile
from handler.errors import Cancelled, InvalidRequest, TooLong
from handler.schema.options import MULTI, Options
from handler.schema.window import SAMPLE_RATE, Samples, Window
from handler.timeline import Timeline
from handler.transcription.diarization import Diarization
from handler.transcription.shared_resources import SharedResources

MULTI_PAUSE_S = 0.8  # with language `multi`, a longer pause ends a window because languages change at pauses
START_BYTES = 1024  # of a file that is still arriving; with fewer, it gets no turn and no process
WATERMARK_INTERVAL_S = 2.0  # seconds of audio between two watermarks of a channel


@dataclass(frozen=True, slots=True)
class _Watermark:
    """A promise that each window of `channel` produced from now on begins at `seconds` of the audio or later."""

    channel: int | None
    seconds: float


_Item = Window | _Watermark | BaseException | None  # None marks the end of the audio


class WindowProducer:
    """Cuts the audio of one source into windows, which `next_window` returns in the event loop that created it."""

    def __init__(
        self, resources: SharedResources, options: Options, timeline: Timeline, diarization: Diarization | None = None
    ) -> None:
        """Create a producer. `diarization` hears the samples, too."""
        self.seconds = 0.0  # seconds of audio decoded to samples so far
        self.channels: tuple[int | None, ...] = (None,)  # set before the first window
        # By channel, the second of the audio before which no window begins that `next_window` will return.
        self.watermarks: dict[int | None, float] = {}
        self._resources = resources
        self._settings = resources.settings
        self._options = options
        self._timeline = timeline
        self._diarization = diarization
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._spool: Spool | None = None  # of the bytes that this producer fetches
        self._growing: Spool | None = None  # of the bytes that somebody else receives
        self._file: StoredFile | None = None
        self._decoder: AudioProcess | None = None
        self._chunking_s = 0.0  # processor seconds that this thread spent on cutting windows
        self._is_closed = threading.Event()
        # Windows of which each needs the text of the one before are not needed in advance.
        self._quota = resources.window_quota.for_request(reserved_only=options.condition_on_previous_text)
        self._turns = resources.decode_turns
        self._start_time = time.monotonic()

    @property
    def duration(self) -> float | None:
        """Return the duration in seconds that the container states, or None if it is not stated or not known yet."""
        return self._decoder.report.duration if self._decoder else None

    @property
    def starved_s(self) -> float:
        """Return for how many seconds there has been nothing to decode, because no more bytes have arrived.

        A file that has arrived in full, and waits for its first turn, is something to decode.
        """
        if self._decoder is not None:
            return self._decoder.starved_s
        spool = self._spool or self._growing
        is_arriving = spool is not None and not spool.has_ended
        return time.monotonic() - self._start_time if is_arriving else 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each defect of the file found so far."""
        return tuple(self._decoder.report.warnings) if self._decoder else ()

    def start(self, source: AudioSource) -> None:
        """Start reading the source in a background thread. Raises Cancelled if the process shuts down."""
        try:
            self._resources.threads.submit(self._run, source)
        except RuntimeError:  # the pool takes no more work
            raise Cancelled("the worker is shutting down") from None

    async def next_window(self) -> Window | None:
        """Wait for the next window and return it, or None after the last one. Raises the error that ended the audio."""
        while isinstance(item := await self._items.get(), _Watermark):
            self.watermarks[item.channel] = item.seconds
        if isinstance(item, BaseException):
            raise item
        return item

    def release_window(self) -> None:
        """Allow one more window to be cut, because one has been decoded."""
        self._quota.release()

    def fail(self, error: BaseException) -> None:
        """Let `next_window` raise an error. Any thread may call this."""
        self._put(error)

    def _put(self, item: _Item) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def close(self) -> None:
        """Stop reading the source. May be called from any thread."""
        self._is_closed.set()
        self._quota.close()
        if self._decoder is not None:
            self._decoder.close()
        if self._spool is not None:
            self._spool.stop()

    def free(self) -> None:
        """Delete the downloaded bytes. This blocks, so do not call it in an event loop."""
        if self._spool is not None:
            self._spool.close()

    def _run(self, source: AudioSource) -> None:
        """Produce all windows of a source, and end with None or the error."""
        error: BaseException | None = None
        started = time.thread_time()
        try:
            content = self._open(source)
            content.await_bytes(START_BYTES)
            with self._turns:
                self._produce_windows(content)
        except BaseException as exc:
            error = exc
        try:
            if (growing := self._spool or self._growing) is not None:
                growing.check()  # the download's error explains more than the decoder's, which it caused
        except BaseException as exc:
            error = exc
        if self._file is not None:
            self._file.close()
        cpu_s, vad_s = (0.0, 0.0) if self._decoder is None else (self._decoder.cpu_s, self._decoder.vad_s)
        self._timeline.add("decode", time.thread_time() - started - self._chunking_s + cpu_s - vad_s)
        self._timeline.add("vad", self._chunking_s + vad_s)
        if not self._is_closed.is_set():
            self._put(error)
        elif self._spool is not None:  # the spool was created while `close` was running
            self._spool.close()

    def _open(self, source: AudioSource) -> Spool | StoredFile:
        """Return the bytes of the source. A download continues in another thread while they are read."""
        if source.growing is not None:
            self._growing = source.growing
            return source.growing
        if source.file is not None:
            with suppress(OSError):  # the file lies in memory, or is a pipe
                self._file = StoredFile(source.file)
                return self._file
        self._spool = spool = self._resources.fetcher.spool()
        self._check_open()
        if source.url is not None:
            self._resources.fetcher.start(source.url, spool, self._timeline)
        else:
            _copy(source.file or self._resources.fetcher.decode_base64(source.base64 or ""), spool)
        return spool

    def _produce_windows(self, content: Spool | StoredFile) -> None:
        """Decode a file to samples, and produce the windows and watermarks of all channels."""
        options = self._options
        chunkers: list[SpeechChunker] = []
        detectors: list[DetectedElsewhere] = []
        watermark_s = 0.0  # position in the audio of the last watermarks
        num_to_skip = round(options.start_at * SAMPLE_RATE)  # samples before `start_at`
        pool = self._resources.audio_processes
        self._decoder = AudioProcess(pool, content, _decode_options(options), self._turns.released)
        self._check_open()  # `close` may have been called before there was a decoder to close
        for block in self._decoder.blocks():
            self._check_open()
            self.seconds += len(block) / SAMPLE_RATE
            self._check_duration(self._decoder.report.duration)
            if not chunkers:
                self.channels = tuple(range(block.shape[1])) if options.channels == "split" else (None,)
                detectors = [DetectedElsewhere() for _ in self.channels]
                chunkers = [self._new_chunker(*parts) for parts in zip(self.channels, detectors, strict=True)]
            for detector, probabilities in zip(detectors, self._decoder.speech, strict=True):
                detector.pass_on(probabilities)
            num_skipped, num_to_skip = min(num_to_skip, len(block)), max(0, num_to_skip - len(block))
            if num_skipped < len(block):
                if self._diarization is not None:
                    with self._turns.released():
                        self._diarization.push(block[num_skipped:].T)
                for chunker, samples in zip(chunkers, block[num_skipped:].T, strict=True):
                    self._emit(self._timed(chunker.push, samples))
            if self.seconds - watermark_s >= WATERMARK_INTERVAL_S:
                watermark_s = self.seconds
                for chunker, channel in zip(chunkers, self.channels, strict=True):
                    self._put(_Watermark(channel, chunker.watermark_s))
            self._turns.pass_on()
        if options.start_at and self.seconds <= options.start_at:
            raise InvalidRequest(
                f"start_at must lie before the end of the audio, which is {self.seconds:.3f} s long", "start_at"
            )
        for chunker in chunkers:
            self._emit(self._timed(chunker.finish))

    def _check_duration(self, stated_s: float | None) -> None:
        """Raise TooLong if the audio exceeds the limit.

        The limit applies to the audio decoded so far, and to the duration `stated_s` that the container states, if any.
        """
        if max(self.seconds, stated_s or 0.0) > self._settings.max_duration_s:
            raise TooLong(f"expected at most {self._settings.max_duration_s:g} s of audio; got more")

    def _timed(self, method: Callable[..., list[Window]], *samples: Samples) -> list[Window]:
        """Call a chunker's method, add the processor time of the call to `_chunking_s`, and return the windows."""
        started = time.thread_time()
        try:
            return method(*samples)
        finally:
            self._chunking_s += time.thread_time() - started

    def _new_chunker(self, channel: int | None, detector: Detector) -> SpeechChunker:
        options = self._options
        max_pause_s = MULTI_PAUSE_S if options.language == MULTI else MAX_PAUSE_S
        return SpeechChunker(
            self._settings.chunk_length_s,
            self._settings.stride_length_s,
            detector,
            everything=not options.vad,
            overlaps=self._resources.engine.capabilities.word_times,  # by which overlapping text is joined
            max_pause_s=max_pause_s,
            channel=channel,
            start=round(options.start_at * SAMPLE_RATE),
        )

    def _emit(self, windows: list[Window]) -> None:
        """Produce windows one by one, waiting for quota before each. Raises Cancelled if the request is closed."""
        for window in windows:
            with self._turns.released():
                self._quota.acquire()
            self._check_open()
            self._put(window)

    def _check_open(self) -> None:
        """Raise Cancelled if the request is closed."""
        if self._is_closed.is_set():
            raise Cancelled("the request is over")


def _copy(file: BinaryIO, spool: Spool) -> None:
    """Write a complete file to a spool. Raises TooLarge, StorageFull."""
    while piece := file.read(IN_MEMORY):
        spool.write(piece)
    spool.finish()


def _decode_options(options: Options) -> DecodeOptions:
    """Return how a request wants its file to be read."""
    return DecodeOptions(
        split=options.channels == "split",
        track=options.audio_track,
        encoding=options.input_format,
        sample_rate=options.sample_rate,
        channels=options.input_channels or 1,
        listen_from=round(options.start_at * SAMPLE_RATE),
    )
