"""Tell the speakers of one request apart, beside its transcription. Knows no word and no model.

All requests share one thread, so that no more than one processor works on it, and live sessions another one. What is
heard waits in a queue of limited length, and whoever cuts windows waits for room in it.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from handler.errors import Cancelled
from handler.schema.options import Options
from handler.schema.speakers import Diarizer, SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.window import SAMPLE_RATE
from handler.transcription.shared_resources import SharedResources

BLOCK_S = 8.0  # seconds of audio, summed over the channels, that are heard at a time
MAX_WAITING = 32  # such blocks of a request; four minutes of one channel
NICENESS = 10  # of the thread, which gets the processors that transcribing leaves
SHUTTING_DOWN = "the worker is shutting down"
Block = NDArray[np.float32]  # [channels, n]
T = TypeVar("T")
P = ParamSpec("P")


def new_speaker_threads(*, is_live: bool = False) -> ThreadPoolExecutor:
    """Return a pool of the one thread in which speakers are told apart, of recordings or of live speech."""
    return ThreadPoolExecutor(1, "live-speakers" if is_live else "speakers", _tune, (is_live,))


def _tune(is_live: bool) -> None:
    """Let the thread that calls this compute alone, and for recordings with the processors that others leave."""
    from handler.engine.cpu_tuning import use_one_thread

    use_one_thread()
    if is_live:  # somebody waits for the end of a turn
        return
    with suppress(OSError, AttributeError):  # a system on which a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def submit(threads: ThreadPoolExecutor, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> "Future[T]":
    """Let a pool call `work`. Raises Cancelled if the process shuts down."""
    try:
        return threads.submit(work, *arguments, **options)
    except RuntimeError:  # the pool takes no more work
        raise Cancelled(SHUTTING_DOWN) from None


async def run_in(threads: ThreadPoolExecutor, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Let a pool call `work`, and return the result. Raises what it raises, and Cancelled if the process shuts down."""
    return await result_of(submit(threads, work, *arguments, **options))


async def result_of(future: "Future[T]") -> T:
    """Wait for what a pool was given. Raises what it raises, and Cancelled if the process shuts down."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and not (task and task.cancelling()):
            raise Cancelled(SHUTTING_DOWN) from None
        raise


def speaker_count(options: Options, model: SpeakerModel) -> SpeakerCount:
    """Return how many speakers options expect, and a model can tell apart."""
    low, high = options.speakers or (1, None)
    return SpeakerCount(low, model.max_speakers if high is None else min(high, model.max_speakers))


class Diarization:
    """Hears the channels of one request, and then tells who spoke when."""

    def __init__(self, model: SpeakerModel, executor: ThreadPoolExecutor, options: Options) -> None:
        self._model = model
        self._executor = executor
        self._count = speaker_count(options, model)
        self._start_s = options.start_at
        self._diarizers: list[Diarizer] = []  # of each channel; only the thread of the pool uses them
        self._blocks: list[Block] = []  # not heard yet
        self._num_samples = 0  # in these blocks
        self._lock = threading.Lock()  # around these blocks
        self._room = threading.Semaphore(MAX_WAITING)
        self._failure: BaseException | None = None
        self._hears_more = True

    @classmethod
    def of(cls, resources: SharedResources, options: Options) -> "Diarization | None":
        """Return the diarization of a request, or None if it wants none."""
        model, threads = resources.speaker_model, resources.speaker_threads
        return cls(model, threads, options) if options.diarize and model is not None and threads is not None else None

    def push(self, samples: Block) -> None:
        """Hear more samples. Wait if too much of what came before has not been heard. Raises what went wrong."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self._blocks.append(samples.astype(np.float32))
            self._num_samples += samples.size
            is_due = self._num_samples >= BLOCK_S * SAMPLE_RATE
        if is_due:
            self._room.acquire()
            submit(self._executor, self._hear, self._take()).add_done_callback(lambda _: self._room.release())

    async def finish(self, timeout_s: float) -> list[SpeakerActivity] | None:
        """Return who spoke when in each channel, by what has been pushed, or None if it takes too long.

        Raises what went wrong, and Cancelled if the process shuts down meanwhile.
        """
        future = submit(self._executor, self._finish, self._take())
        timeout = asyncio.timeout(timeout_s)
        try:
            async with timeout:
                return await result_of(future)
        except TimeoutError:
            if timeout.expired():
                return None
            raise

    def stop_hearing(self) -> None:
        """Skip what waits to be heard, so that `finish` tells soon what has been heard. Any thread may call this."""
        self._hears_more = False

    def _take(self) -> Block | None:
        """Return what has not been heard yet, or None."""
        with self._lock:
            blocks, self._blocks, self._num_samples = self._blocks, [], 0
        return np.concatenate(blocks, 1) if blocks else None

    def _hear(self, block: Block | None) -> None:
        if block is None or not self._hears_more or self._failure is not None:
            return
        from handler.engine.device_errors import device_errors

        try:
            with device_errors():
                if not self._diarizers:
                    self._diarizers = [self._model.new_diarizer() for _ in block]
                for diarizer, channel in zip(self._diarizers, block, strict=True):
                    diarizer.push(channel)
        except BaseException as exc:
            self._failure = exc

    def _finish(self, block: Block | None) -> list[SpeakerActivity]:
        from handler.engine.device_errors import device_errors

        self._hear(block)
        if self._failure is not None:
            raise self._failure
        with device_errors():
            return [diarizer.finish(self._count).starting_at(self._start_s) for diarizer in self._diarizers]
