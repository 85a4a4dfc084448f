"""Decode one file in an audio process, which the supervisor has forked for this file alone.

The process reads the file's bytes from the descriptors of its spool, and asks the serving process for more. It decodes
one block at a time, detects speech in it, and writes the samples and the probabilities of speech to shared memory.
Here no other request waits for the interpreter's lock meanwhile. Whatever a file does to the libraries that read it
happens to this process alone. Knows no window and no network.
"""

import os
import resource
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from handler.audio.decode import AudioDecoder
from handler.audio.media_file import MediaFile
from handler.audio.media_report import DecodeOptions, MediaReport
from handler.audio.process_messages import (
    MAX_DESCRIPTORS,
    MAX_PIECE_SAMPLES,
    Disconnected,
    close_all,
    receive,
    send,
)
from handler.audio.spool import read_parts
from handler.audio.vad import VoiceActivity
from handler.errors import AsrError, CorruptMedia
from handler.schema.window import SAMPLE_RATE

MAX_MEMORY_BYTES = 1024**3  # address space of an audio process, libraries included
MAX_OPEN_FILES = 32
PIECE_S = 2.0  # seconds of audio sent at a time
BASE_CPU_S = 4.0  # processor seconds that any file may take
CPU_S_PER_MB = 0.2  # processor seconds that each megabyte of the file adds
CPU_S_PER_AUDIO_S = 0.1  # processor seconds that each second of decoded audio adds
# Of an answer, so that it fits into a message.
MAX_WARNINGS, MAX_TEXT_CHARS, MAX_TRACEBACK_CHARS = 20, 1000, 8000
OOM_SCORE = "1000"  # if the machine runs out of memory, this process goes first
Samples = NDArray[np.float32]


def run(channel: socket.socket) -> Never:
    """Wait for a file, decode it, and end the process."""
    try:
        state, (block_memory, *parts) = receive(channel, MAX_DESCRIPTORS)
        _limit_resources()
        budget = _CpuBudget(BASE_CPU_S)
        content = RemoteBytes(channel, state, parts, budget)
        _decode(channel, content, DecodeOptions(**state["options"]), block_memory, budget)
    except Disconnected:
        pass
    except Exception as exc:  # a fault of this program or of its surroundings, not of the file
        with suppress(Disconnected):
            send(channel, _describe_crash(exc))
    finally:
        os._exit(0)  # nothing of the supervisor's, such as its handlers at exit, may run in this process


class _CpuBudget:
    """The processor time that this process may take before the system ends it, in seconds. It can only grow."""

    def __init__(self, seconds: float) -> None:
        self._seconds = time.process_time()
        self.add(seconds)

    def add(self, seconds: float) -> None:
        self._seconds += seconds
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(self._seconds) + 1, hard))


class RemoteBytes:
    """The bytes of a spool in the serving process, which are read from the descriptors of its parts."""

    def __init__(self, channel: socket.socket, state: dict[str, Any], parts: list[int], budget: _CpuBudget) -> None:
        self._channel = channel
        self._parts = parts
        self._budget = budget
        self.before_wait: Callable[[], None] = lambda: None  # called before each wait for bytes
        self._head_bytes: int = state["head_bytes"]
        self._size = 0
        self._has_ended = False
        self._update(state)

    @property
    def size(self) -> int:
        """Return the number of bytes that had arrived when the serving process was last asked."""
        return self._size

    @property
    def has_ended(self) -> bool:
        """Return whether no more bytes will arrive."""
        if not self._has_ended:
            self._ask({"state": True})
        return self._has_ended

    def is_ready(self, position: int) -> bool:
        """Return whether a read at `position` returns at once, because the byte there has arrived or never will."""
        return self._size > position or self.has_ended or self._size > position

    def read_at(self, position: int, count: int) -> bytes:
        """Wait until the byte at `position` has arrived, and return up to `count` bytes, or b"" at the end."""
        self.await_bytes(position + 1)
        count = min(count, self._size - position)
        return read_parts(self._parts, self._head_bytes, position, count) if count > 0 else b""

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end, and return whether no more bytes will arrive."""
        if self._size < count and not self.has_ended and self._size < count:
            self.before_wait()
            self._ask({"bytes": count})
        return self._has_ended

    def length(self) -> int:
        """Wait until the total number of bytes is known, and return this number."""
        if self.has_ended:
            return self._size
        self.before_wait()
        return int(self._ask({"length": True})["length"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask the serving process how much has arrived, and return its answer. Raises Disconnected."""
        send(self._channel, question)
        state, parts = receive(self._channel, MAX_DESCRIPTORS)
        if parts:
            close_all(self._parts)
            self._parts = parts
        self._update(state)
        return state

    def _update(self, state: dict[str, Any]) -> None:
        self._budget.add((state["size"] - self._size) / 1e6 * CPU_S_PER_MB)
        self._size, self._has_ended = state["size"], state["has_ended"]


def _limit_resources() -> None:
    """Limit what this process may take, and let it be the first to end if the machine runs out of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)


class _BlockSender:
    """Sends samples to the serving process in pieces of PIECE_S seconds, which fit into the shared memory.

    A piece is shorter at the end of the file, and where the decoder has to wait for bytes.
    """

    def __init__(
        self, channel: socket.socket, memory: int, report: MediaReport, budget: _CpuBudget, listen_from: int
    ) -> None:
        self._channel = channel
        self._num_unheard = listen_from  # samples in which nobody looks for speech
        self._detectors: list[VoiceActivity] = []  # of each channel
        self._vad_s = 0.0  # processor seconds
        self._memory = memory
        self._report = report
        self._budget = budget
        self._blocks: list[Samples] = []  # not sent yet
        self._started = time.process_time()

    def add(self, block: Samples) -> None:
        """Send a block [n, channels], or keep it for a longer piece. Raises Disconnected."""
        self._blocks.append(block)
        self._budget.add(len(block) / SAMPLE_RATE * CPU_S_PER_AUDIO_S)
        if sum(map(len, self._blocks)) >= PIECE_S * SAMPLE_RATE:
            self.flush()

    def flush(self) -> None:
        """Send what is kept. Raises Disconnected."""
        blocks, self._blocks = self._blocks, []
        for piece in _split(np.concatenate(blocks)) if blocks else ():
            self._send(piece, self._hear(piece))

    def finish(self) -> None:
        """Send what is kept, and the probabilities of speech that waited for more samples. Raises Disconnected."""
        self.flush()
        started = time.process_time()
        rest = [detector.finish() for detector in self._detectors]
        self._vad_s += time.process_time() - started
        self._send(np.zeros((0, max(1, len(rest))), np.float32), rest)

    def _hear(self, piece: Samples) -> list[Samples]:
        """Return the probabilities of speech, of each channel, that are now known. piece [n, channels] → [frames]"""
        started = time.process_time()
        self._detectors = self._detectors or [VoiceActivity() for _ in range(piece.shape[1])]
        skipped = min(self._num_unheard, len(piece))
        self._num_unheard -= skipped
        heard = piece[skipped:].T
        speech = [detector.push(samples) for detector, samples in zip(self._detectors, heard, strict=True)]
        self._vad_s += time.process_time() - started
        return speech

    def _send(self, piece: Samples, speech: list[Samples]) -> None:
        os.pwrite(self._memory, b"".join(array.tobytes() for array in (piece, *speech)), 0)
        frames = [len(probabilities) for probabilities in speech] or [0]
        send(self._channel, {"block": piece.shape, "speech": frames, **self.describe()})
        receive(self._channel)  # the serving process has copied the piece

    def describe(self) -> dict[str, Any]:
        """Return what is known of the file, and the processor seconds that it has taken."""
        warnings = [text[:MAX_TEXT_CHARS] for text in self._report.warnings[:MAX_WARNINGS]]
        cpu_s = time.process_time() - self._started
        return {"duration": self._report.duration, "warnings": warnings, "cpu_s": cpu_s, "vad_s": self._vad_s}


def _decode(
    channel: socket.socket, content: RemoteBytes, options: DecodeOptions, block_memory: int, budget: _CpuBudget
) -> None:
    """Send a message for each piece of the audio, and then the end or the error. Raises Disconnected."""
    decoder = AudioDecoder(MediaFile(content), options)
    sender = _BlockSender(channel, block_memory, decoder.report, budget, options.listen_from)
    content.before_wait = sender.flush
    end: dict[str, Any] = {"end": True}
    try:
        for block in decoder.blocks():
            sender.add(block)
        sender.finish()
    except MemoryError:
        end = _describe_error(CorruptMedia("expected a file that can be decoded within 1 GB of memory"))
    except AsrError as exc:
        end = _describe_error(exc)
    except Disconnected:
        raise
    except Exception as exc:  # a fault of this program, which a file brought to light
        end = _describe_crash(exc)
    send(channel, {**end, **sender.describe()})
    receive(channel)  # the serving process ends this one, and may ask how much has arrived no more


def _split(block: Samples) -> Iterator[Samples]:
    size = MAX_PIECE_SAMPLES // block.shape[1]
    for at in range(0, len(block), size):
        yield np.ascontiguousarray(block[at : at + size], np.float32)


def _describe_crash(exc: Exception) -> dict[str, Any]:
    return {"crash": "".join(traceback.format_exception(exc))[-MAX_TRACEBACK_CHARS:]}


def _describe_error(error: AsrError) -> dict[str, Any]:
    return {"error": error.code, "message": error.message[:MAX_TEXT_CHARS], "field": error.field}
