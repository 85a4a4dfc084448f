"""Tell the speakers of one request apart, beside its transcription. Knows no word and no model.

All requests share one thread, so that no more than one processor works on it. What is heard waits in a queue of limited
length, and whoever cuts windows waits for room in it.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.errors import Cancelled
from handler.schema.options import Options
from handler.schema.speakers import Diarizer, SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.window import SAMPLE_RATE
from handler.transcription.shared_resources import SharedResources

BLOCK_S = 8.0  # seconds of audio that are heard at a time
MAX_WAITING = 32  # such blocks of a request; four minutes
NICENESS = 10  # of the thread, which transcribing does not wait for


def new_speaker_threads() -> ThreadPoolExecutor:
    """Return a pool of the one thread in which speakers are told apart."""
    return ThreadPoolExecutor(1, "speakers", _be_nice)


def _be_nice() -> None:
    """Let the thread that calls this have the processors that others leave."""
    import torch

    torch.set_num_threads(1)
    with suppress(OSError, AttributeError):  # a system on which a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Diarization:
    """Hears the channels of one request, and then tells who spoke when."""

    def __init__(self, model: SpeakerModel, executor: ThreadPoolExecutor, options: Options) -> None:
        self._model = model
        self._executor = executor
        low, high = options.speakers or (1, None)
        self._count = SpeakerCount(low, model.max_speakers if high is None else min(high, model.max_speakers))
        self._start_s = options.start_at
        self._diarizers: list[Diarizer] = []  # of each channel
        self._blocks: list[NDArray[np.float32]] = []  # [channels, n]; not heard yet
        self._num_samples = 0  # in these blocks
        self._room = threading.Semaphore(MAX_WAITING)
        self._failure: BaseException | None = None
        self._is_closed = False

    @classmethod
    def of(cls, resources: SharedResources, options: Options) -> "Diarization | None":
        """Return the diarization of a request, or None if it wants none."""
        model, threads = resources.speaker_model, resources.speaker_threads
        return cls(model, threads, options) if options.diarize and model is not None and threads is not None else None

    def push(self, samples: NDArray[np.float32]) -> None:
        """Hear more samples, [channels, n]. Wait if too much of what came before has not been heard."""
        self._blocks.append(samples.astype(np.float32))
        self._num_samples += samples.shape[1]
        if self._num_samples >= BLOCK_S * SAMPLE_RATE:
            self._room.acquire()
            self._submit(self._hear, self._take()).add_done_callback(lambda _: self._room.release())

    async def finish(self) -> list[SpeakerActivity]:
        """Return who spoke when in each channel. Raises what went wrong."""
        return await asyncio.wrap_future(self._submit(self._finish, self._take()))

    def close(self) -> None:
        """Hear nothing more. Any thread may call this."""
        self._is_closed = True

    def _take(self) -> NDArray[np.float32]:
        blocks, self._blocks, self._num_samples = self._blocks, [], 0
        return np.concatenate(blocks, 1) if blocks else np.zeros((len(self._diarizers), 0), np.float32)

    def _submit(self, work: Callable[[NDArray[np.float32]], object], samples: NDArray[np.float32]) -> "Future[Any]":
        return self._executor.submit(work, samples)

    def _hear(self, samples: NDArray[np.float32]) -> None:
        if self._is_closed or self._failure is not None:
            return
        try:
            if not self._diarizers:
                self._diarizers = [self._model.new_diarizer() for _ in samples]
            for diarizer, channel in zip(self._diarizers, samples, strict=True):
                diarizer.push(channel)
        except BaseException as exc:
            self._failure = exc

    def _finish(self, samples: NDArray[np.float32]) -> list[SpeakerActivity]:
        self._hear(samples)
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise Cancelled("the request is over")
        return [diarizer.finish(self._count).starting_at(self._start_s) for diarizer in self._diarizers]
