"""The house: what all requests share, who may come in, and how a request ends. Knows no door and no model.

Downloading and decoding to samples run in threads of their own, the engine in another; the event loop never blocks.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from handler import __version__, logs
from handler.audio.fetch import Fetcher
from handler.audio.source import AudioSource
from handler.engine.runner import Runner
from handler.errors import AsrError, Internal, InvalidRequest, Overloaded
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Progress, ProgressCallback, Transcript
from handler.schema.window import Engine
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.ingest import LANGUAGE_WINDOWS
from handler.transcription.request import Request, Shared
from handler.transcription.usage import Counters
from handler.transcription.window_cache import WindowCache
from handler.transcription.window_quota import WindowQuota

__all__ = ["Pipeline", "Progress", "ProgressCallback"]


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """How busy a pipeline is."""

    requests: int  # in work
    places: int  # that doors have taken, for these and for those that still arrive
    waiting: int  # windows
    busy: int  # rows
    rows: int
    ready_s: float  # from the process's start until it was ready; 0 where that is not known
    sums: dict[str, float]  # of what it has done, see Tally


class Pipeline:
    """Transcribes many requests at once on one engine. `transcribe` may be awaited in any event loop."""

    def __init__(self, engine: Engine, settings: Settings, start: Timeline | None = None, about: Mapping[str, str] | None = None) -> None:
        """`start` is where the time went until now; the first transcript tells it. `about`: what accounts say of the model."""
        settings.check_window(engine.longest_window_s)
        self._start = start
        self._ready_s = 0.0
        self._behind: threading.Thread | None = None
        self.engine = engine
        self.settings = settings
        self.fetcher = Fetcher(settings)
        self.runner = Runner(engine)
        # Each request needs two threads at most, one that downloads and one that decodes, so none waits for another's.
        self.threads = ThreadPoolExecutor(2 * settings.max_requests, thread_name_prefix="audio", initializer=_work_alone)
        self._shared = Shared(
            settings=settings,
            engine=engine,
            runner=self.runner,
            fetcher=self.fetcher,
            threads=self.threads,
            workers=threading.Semaphore(max(1, (os.cpu_count() or 1) // 2)),
            # The few that settle the language, for everybody; and for whoever is alone, what fills all rows while these wait.
            windows=WindowQuota(LANGUAGE_WINDOWS, engine.max_batch_size),
            readings=self._readings(),
            about={"model": engine.model_id, **(about or {}), "device": engine.device_name, "version": __version__},
            cold_start=self.cold_start,
            counters=Counters(),
        )
        self._requests: set[Request] = set()
        self._places = 0  # that doors have taken

    async def transcribe(
        self, source: AudioSource, options: Options, progress: ProgressCallback | None = None, limit_s: float | None = None
    ) -> Transcript:
        """The transcript of one source. Raises AsrError; cancelling stops download, decoding and waiting windows.

        `progress` is called in the event loop, after every window and at the end. `limit_s`: seconds within which the door
        needs an answer; where they plainly do not suffice, the request ends as too long as soon as that is known.
        """
        self._check(options)
        self._check_room(len(self._requests))
        request = Request(self._shared, options, progress, limit_s)
        self._requests.add(request)
        try:
            return await request.run(source)
        except AsrError:
            raise
        except Exception as exc:
            logs.error("request_crashed", exc)
            raise Internal(f"a fault of this worker: {type(exc).__name__}") from exc
        finally:
            self._requests.discard(request)
            request.close()
            await asyncio.shield(asyncio.to_thread(request.free))

    def _readings(self) -> WindowCache | None:
        """What is kept of windows, where it is."""
        given = self.settings
        if given.resume_dir is None:
            return None
        also = (given.audio_context, given.max_new_tokens, self.engine.max_batch_size)
        return WindowCache(given.resume_dir, given.resume_bytes, given.resume_age_s, also)

    def load(self) -> PipelineStats:
        """How busy it is, and what it has done. From any thread."""
        waiting, busy = self.runner.load()
        return PipelineStats(
            len(self._requests), self._places, waiting, busy, self.engine.max_batch_size, self._ready_s, self._shared.counters.sums()
        )

    def cold_start(self) -> dict[str, float] | None:
        """Where the time of this process went until its first transcript, seconds; None from the second one on."""
        start, self._start = self._start, None
        return start.seconds() if start else None

    def ready(self, seconds: float) -> None:
        """Note how long the process took to be ready."""
        self._ready_s = seconds

    def behind(self, work: Callable[[], None]) -> None:
        """Do something that nobody waits for but `close`."""
        self._behind = threading.Thread(target=work, name="behind")
        self._behind.start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, which a door takes before it reads one. Raises Overloaded where all are taken."""
        self._check_room(self._places)
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    def _check_room(self, taken: int) -> None:
        if taken >= self.settings.max_requests:
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
        languages, rows = self.engine.languages, self.engine.max_batch_size
        if max(options.beam_size, options.best_of or 1) > rows:
            name = "beam_size" if options.beam_size > rows else "best_of"
            raise InvalidRequest(f"{name} must be at most BATCH_SIZE, which is {rows}; got {getattr(options, name)}", name)
        known_tokens = self.engine.text_tokens
        if any(token >= known_tokens for token in options.suppress_tokens or ()):
            raise InvalidRequest(
                f"suppress_tokens must be ids of text, below {known_tokens}; got {max(options.suppress_tokens or ())}", "suppress_tokens"
            )
        if options.language == MULTI and not self.engine.detects_language:
            raise InvalidRequest(f"language multi needs a multilingual model; {self.engine.model_id} is not", "language")
        if options.language not in (None, MULTI, *languages):
            known = ", ".join(languages) if len(languages) < 10 else f"one of {len(languages)} others"
            raise InvalidRequest(
                f"language {options.language!r} is not known to model {self.engine.model_id}; expected {known}", "language"
            )
        if options.task == "translate" and not self.engine.detects_language:
            raise InvalidRequest(f"task translate needs a multilingual model; {self.engine.model_id} is not", "task")


def _work_alone() -> None:
    from handler.engine.cpu_tuning import use_one_thread

    use_one_thread()
