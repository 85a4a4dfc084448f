"""Admit requests, run them on shared resources and report the load. Knows no entry point and no model.

Audio is downloaded and decoded to samples in a pool of threads, and the engine runs in a thread of its own, so that the
event loop never blocks.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from handler import __version__, logs
from handler.audio.fetch import Fetcher
from handler.audio.process_pool import shared_pool
from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.engine.processors import available_processors
from handler.engine.runner import Runner
from handler.errors import AsrError, DecodingLost, Internal, InvalidRequest, OutOfMemory
from handler.schema.capabilities import Capabilities, check_options, effective_options
from handler.schema.options import Options
from handler.schema.speakers import SpeakerModel
from handler.schema.transcript import ProgressCallback, Transcript
from handler.schema.window import Engine, Window, WindowResult
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.admission import OPEN_PER_PLACE, Admission, Place
from handler.transcription.decode_turns import DecodeTurns
from handler.transcription.diarization import new_speaker_threads
from handler.transcription.language_detector import LANGUAGE_WINDOWS
from handler.transcription.request import Request
from handler.transcription.shared_resources import SharedResources
from handler.transcription.transcript_stream import TranscriptStream
from handler.transcription.usage import Counters
from handler.transcription.window_cache import WindowCache
from handler.transcription.window_quota import WindowQuota

STALLED_S = 120.0  # a request that waits longer for its turn to decode shows that decoding stands still


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """The current load of a pipeline, and totals over all requests so far."""

    requests: int  # requests that are being transcribed
    admitted_requests: int  # requests that are being transcribed, or whose audio is still arriving
    waiting_windows: int
    active_sequences: int  # sequences that the engine is decoding now
    abandoned_downloads: int  # threads that outlive their download, because they look a name up
    max_batch_size: int  # sequences
    ready_s: float  # seconds from the start of the process until it was ready; 0 if unknown
    counters: dict[str, float]  # totals by name, see Counters
    device_s_by_temperature: dict[float, float]  # see Runner


def _capabilities(engine: Engine, speaker_model: SpeakerModel | None) -> Capabilities:
    """Return what both models can do."""
    if speaker_model is None:
        return engine.capabilities
    return replace(
        engine.capabilities,
        diarization=True,
        known_speakers=speaker_model.compares_voices,
        live_diarization=speaker_model.hears_streams,
    )


class Pipeline:
    """Transcribes many requests concurrently on one engine. All of them belong to one event loop at a time.

    `resources` is for work of other kinds on the same engine.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        startup_timeline: Timeline | None = None,
        model_info: Mapping[str, str] | None = None,
        speaker_model: SpeakerModel | None = None,
    ) -> None:
        """Create a pipeline and start the engine's thread.

        `startup_timeline` holds the duration of each stage of the startup, and is reported with the first transcript.
        `model_info` is added to the account of every transcript (the record of what a request was and used).
        `speaker_model` tells the speakers of requests that want it apart.
        """
        settings.check_window(engine.capabilities.longest_window_s)
        self._startup_timeline = startup_timeline
        self._ready_s = 0.0
        self._background_thread: threading.Thread | None = None
        self.engine = engine
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self.runner = Runner(engine)
        # A request needs one thread, to cut its audio into windows, so no request waits for another's.
        self.threads = ThreadPoolExecutor(OPEN_PER_PLACE * settings.max_requests, thread_name_prefix="audio")
        self._capabilities = _capabilities(engine, speaker_model)
        self.resources = SharedResources(
            settings=settings,
            engine=engine,
            runner=self.runner,
            fetcher=self.fetcher,
            threads=self.threads,
            decode_turns=DecodeTurns(max(1, available_processors() // 2)),
            audio_processes=shared_pool(),
            # Each request can detect its language; the pool lets a single request fill the whole batch meanwhile.
            window_quota=WindowQuota(LANGUAGE_WINDOWS, engine.max_batch_size + engine.encode_batch_size),
            window_cache=self._new_window_cache(),
            model_info={
                "model": engine.model_id,
                **(model_info or {}),
                "device": engine.device_name,
                "version": __version__,
            },
            speaker_model=speaker_model,
            speaker_threads=None if speaker_model is None else new_speaker_threads(),
            live_speaker_threads=None if speaker_model is None else new_speaker_threads(is_live=True),
            cold_start=self.cold_start,
            counters=Counters(),
        )
        self._admission = Admission(settings.max_requests)

    async def transcribe(
        self,
        source: AudioSource,
        options: Options,
        progress: ProgressCallback | None = None,
        limit_s: float | None = None,
        place: Place | None = None,
    ) -> Transcript:
        """Transcribe one source. Cancelling the call stops the download and the decoding.

        `place` is the place that the request has already, if it has one. Without, Overloaded is raised if there is no
        room.

        `progress` is called in the event loop after every window and at the end. `limit_s` is the number of seconds
        within which the caller needs an answer. Unless the request accepts a partial transcript, TooLong is raised as
        soon as it is clear that `limit_s` will not suffice. Raises AsrError, of which TooLong is a subclass.
        """
        self.check(options)
        if place is None:
            with self.admit() as place:
                return await self.transcribe(source, options, progress, limit_s, place)
        options = effective_options(options, self._capabilities)
        request = place.work = Request(self.resources, options, progress, limit_s)
        try:
            return await request.run(source)
        except AsrError:
            raise
        except Exception as exc:
            logs.error("request_crashed", exc)
            raise Internal(f"a fault of this worker: {type(exc).__name__}") from exc
        finally:
            if place.work is request:
                place.work = None
            request.close()
            await asyncio.shield(asyncio.to_thread(request.free))

    def stream(
        self, source: AudioSource, options: Options, limit_s: float | None = None, place: Place | None = None
    ) -> TranscriptStream:
        """Start to transcribe one source, and return an iterator of progress items that ends with the transcript.

        It raises what `transcribe` raises, whose parameters these are.
        """
        return TranscriptStream(partial(self.transcribe, source, options, limit_s=limit_s, place=place))

    def check(self, options: Options) -> None:
        """Raise InvalidRequest if the models cannot do what the options ask for."""
        check_options(options, self._capabilities, self.engine.model_id, self.engine.max_batch_size)

    def check_live(self, options: Options) -> None:
        """Raise InvalidRequest if the models cannot do what the options of live speech ask for."""
        self.check(options)
        if options.diarize and not self._capabilities.live_diarization:
            raise InvalidRequest(
                "diarize must be left out or false: the model of DIARIZE_MODEL hears whole recordings only", "diarize"
            )

    def _new_window_cache(self) -> WindowCache | None:
        """Return a cache of decoded windows, or None if the settings name no folder for one."""
        settings = self.settings
        if settings.resume_dir is None:
            return None
        process_params = (settings.audio_context, settings.max_new_tokens, self.engine.max_batch_size)
        return WindowCache(settings.resume_dir, settings.resume_bytes, settings.resume_age_s, process_params)

    def stats(self) -> PipelineStats:
        """Return the current load, and totals over all requests so far. May be called from any thread."""
        places = self._admission.places
        waiting_windows, active_sequences = self.runner.load()
        num_ahead = max(0, active_sequences - self.engine.max_batch_size)  # being prepared, and not decoded yet
        return PipelineStats(
            requests=sum(place.work is not None for place in places),
            admitted_requests=len(places),
            waiting_windows=waiting_windows + num_ahead,
            active_sequences=active_sequences - num_ahead,
            abandoned_downloads=self.fetcher.num_abandoned,
            max_batch_size=self.engine.max_batch_size,
            ready_s=self._ready_s,
            counters=self.resources.counters.totals(),
            device_s_by_temperature=self.runner.device_s_by_temperature(),
        )

    @property
    def model_id(self) -> str:
        """The name of the model, as MODEL_ID gives it."""
        return self.engine.model_id

    @property
    def device_name(self) -> str:
        """The name of the device that the model runs on."""
        return self.engine.device_name

    @property
    def max_batch_size(self) -> int:
        """The largest number of sequences that are decoded together."""
        return self.engine.max_batch_size

    @property
    def capabilities(self) -> Capabilities:
        """What the models can do."""
        return self._capabilities

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character. Any thread may call this."""
        return self.engine.token_bytes(token)

    def decode(self, window: Window) -> WindowResult:
        """Decode a window that belongs to no request. This blocks. Raises AsrError."""
        owner = object()
        try:
            return self.runner.submit(owner, window).result()
        finally:
            self.runner.cancel(owner)  # otherwise the runner would keep the record of its usage

    def new_spool(self) -> Spool:
        """Return an empty spool for the bytes of one file. The caller must close it."""
        return self.fetcher.spool()

    def start_download(self, url: str) -> Spool:
        """Start to download a file, and return the spool that its bytes arrive in. The caller must close it."""
        spool = self.fetcher.spool()
        self.fetcher.start(url, spool)
        return spool

    def prepare_downloads(self) -> None:
        """Import what the first download needs, which would otherwise wait for it. This blocks."""
        self.fetcher.prepare()

    @property
    def fault(self) -> AsrError | None:
        """Return why no request can be transcribed any more, or None. May be called from any thread."""
        return self.runner.fault or self._decoding_fault()

    @property
    def is_device_lost(self) -> bool:
        """Whether the fault is that the device is lost. May be called from any thread."""
        return self.runner.fault is not None

    def _decoding_fault(self) -> DecodingLost | None:
        reason = self.resources.audio_processes.fault
        if reason is None and self.resources.decode_turns.waiting_s() > STALLED_S:
            reason = f"no file has been decoded for {STALLED_S:g} s, although some wait"
        return None if reason is None else DecodingLost(f"the decoding of audio stands still: {reason}")

    def mend(self) -> None:
        """Try to start what decodes audio again, if it cannot be used. This blocks, so call it in a thread."""
        pool = self.resources.audio_processes
        if pool.fault is not None:
            with suppress(OutOfMemory):
                pool.check()

    def cold_start(self) -> dict[str, float] | None:
        """Return the seconds spent in each stage since the start of the process, by the name of the stage.

        Return None from the second call on, or if the pipeline was created without a startup timeline.
        """
        timeline, self._startup_timeline = self._startup_timeline, None
        return timeline.seconds() if timeline else None

    def mark_ready(self, seconds: float) -> None:
        """Record how many seconds the process took to become ready."""
        self._ready_s = seconds

    def run_in_background(self, work: Callable[[], None]) -> None:
        """Run a function in a background thread. `close` waits until the function has returned."""
        self._background_thread = threading.Thread(target=work, name="background")
        self._background_thread.start()

    def admit(self) -> Place:
        """Return a place for one request, which ends with its `with` block.

        The block should receive the request's audio as well as transcribe it. Raises Overloaded if MAX_REQUESTS
        requests are in work already, or if too many others wait for their audio.
        """
        return self._admission.enter()

    async def wait_for_place(self) -> Place:
        """Wait until fewer than MAX_REQUESTS requests have a place, in the order of asking, and return one more."""
        return await self._admission.wait()

    def close(self) -> None:
        """Stop the engine, and make all running requests raise Cancelled. May be called from any thread."""
        self.runner.close()
        if self._background_thread is not None:
            self._background_thread.join()
        for place in self._admission.places:
            if (work := place.work) is not None:
                work.abort()
        self.threads.shutdown(wait=False, cancel_futures=True)
        for speaker_threads in (self.resources.speaker_threads, self.resources.live_speaker_threads):
            if speaker_threads is not None:
                speaker_threads.shutdown(wait=False, cancel_futures=True)
