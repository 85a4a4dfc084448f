"""Decode one file in an audio process: answer its questions, and check all that it says. Knows no format."""

import math
import os
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler import logs
from handler.audio.media_file import Idle
from handler.audio.media_report import MAX_CHANNELS, DecodeOptions, MediaReport
from handler.audio.process_messages import (
    MAX_HELD_FRAMES,
    MAX_PIECE_FRAMES,
    MAX_PIECE_SAMPLES,
    Disconnected,
    close_all,
    new_channel,
    receive,
    send,
)
from handler.audio.process_pool import AudioProcessPool
from handler.audio.silero import FRAME
from handler.audio.spool import Spool, full_disk_as_storage_full
from handler.audio.stored_file import StoredFile
from handler.errors import AsrError, Cancelled, CorruptMedia, InvalidRequest, NoAudioStream, TooLong, UnsupportedMedia

TURN_S = 0.5  # a file that needs longer for a block goes on without its turn
FEW_BYTES = 4096  # that arrived and were not asked for; with fewer, a process has nothing to do
# What a file may be refused for. Whoever has taken over a process cannot claim that the device is lost.
_ERRORS = {kind.code: kind for kind in (UnsupportedMedia, NoAudioStream, CorruptMedia, InvalidRequest, TooLong)}


class AudioProcess:
    """Decodes one file in an audio process.

    `report` tells what is known of the file so far, and `speech` holds what came with the last block: for each channel,
    the probabilities of speech in the frames for which they are final. The first frame begins where `options` say that
    speech counts.
    """

    def __init__(self, pool: AudioProcessPool, content: Spool | StoredFile, options: DecodeOptions, idle: Idle) -> None:
        """Prepare to decode. Each wait for bytes, or for a block that takes long, is inside `idle()`."""
        self._pool = pool
        self._content = content
        self._options = options
        self._idle = idle
        self._channel: socket.socket | None = None
        self._is_closed = False
        self._num_channels = 0  # of the blocks; 0 before the first one
        self._num_parts = 0  # parts of the spool that the process has descriptors of
        self._num_asked = 0  # bytes that the process last asked for, from the start of the file
        self._last_block_at = time.monotonic()  # before the first block, when the process was prepared
        self._num_heard = -options.listen_from  # samples of each channel in which speech counts
        self._num_frames: list[int] = []  # that have a probability, of each channel
        self.report = MediaReport()
        self.speech: list[NDArray[np.float32]] = []
        self.cpu_s = 0.0  # processor seconds that the audio process has spent
        self.vad_s = 0.0  # those of them that it took to detect speech

    def blocks(self) -> Generator[NDArray[np.float32]]:
        """Yield the audio in blocks of samples at 16 kHz. [n, channels]

        While a block is used, the process decodes the next one. All blocks have the same number of channels. Raises
        AsrError, which is CorruptMedia if the process dies, and Cancelled after `close`.
        """
        with full_disk_as_storage_full():
            ours, theirs = new_channel()
        with ours:
            self._channel = ours
            with theirs:
                pid = self._pool.fork(theirs)
            try:
                yield from self._exchange(ours)
            except Disconnected:
                if self._is_closed:
                    self._pool.end(pid)
                    self._check_open()
                raise self._death(self._pool.signal_of(pid)) from None
            except BaseException:
                self._pool.end(pid)
                raise
            self._pool.end(pid)

    @property
    def starved_s(self) -> float:
        """Return how many seconds ago the last block came, if there are too few bytes for the next one. Else return 0.

        Bytes that drip in do not end that time.
        """
        if self._content.has_ended or self._content.size >= self._num_asked + FEW_BYTES:
            return 0.0
        return time.monotonic() - self._last_block_at

    def close(self) -> None:
        """Make `blocks` raise Cancelled, and end the process. May be called from any thread."""
        self._is_closed = True
        if (channel := self._channel) is not None:
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Cancelled("the request is over")

    def _exchange(self, channel: socket.socket) -> Iterator[NDArray[np.float32]]:
        """Answer the process's questions, and yield its blocks until it has no more. Raises Disconnected, AsrError."""
        with full_disk_as_storage_full():
            block_memory = os.memfd_create("block")
        try:
            self._check_open()
            self._send_state(channel, {"options": asdict(self._options)}, [block_memory])
            while True:
                self._check_open()
                message = self._receive(channel)
                if "block" in message:
                    block, self.speech = self._read_block(block_memory, message)
                    self._take_report(message)
                    self._last_block_at = time.monotonic()
                    send(channel, {})  # the process may decode the next block
                    yield block
                elif "bytes" in message or "length" in message or "state" in message:
                    self._send_state(channel, self._wait_for(message))
                else:
                    self._take_end(message)
                    return
        finally:
            os.close(block_memory)

    def _receive(self, channel: socket.socket) -> dict[str, Any]:
        """Return the next message of the process. A process that takes long loses its turn meanwhile."""
        channel.settimeout(TURN_S)
        try:
            return receive(channel)[0]
        except TimeoutError:
            with self._idle():
                channel.settimeout(None)
                return receive(channel)[0]

    def _wait_for(self, question: dict[str, Any]) -> dict[str, Any]:
        """Wait for the bytes that the process asks for, and return what is to be answered beside the spool's state."""
        count = question.get("bytes", 0)
        if not isinstance(count, int):
            raise Disconnected
        self._num_asked = max(self._num_asked, count)
        if "length" not in question and count <= self._content.size:
            return {}
        with self._idle():
            if "length" in question:
                return {"length": self._content.length()}
            self._content.await_bytes(count)
            return {}

    def _send_state(self, channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message with the number of bytes that have arrived, and the descriptors of new parts of the spool."""
        content = self._content
        state = {"has_ended": content.has_ended, "size": content.size, "head_bytes": content.head_bytes}
        with full_disk_as_storage_full():
            parts = content.descriptors()
        try:
            new_parts = parts if len(parts) > self._num_parts else []
            send(channel, {**message, **state}, [*descriptors, *new_parts])
            self._num_parts = len(parts)
        finally:
            close_all(parts)

    def _take_report(self, message: dict[str, Any]) -> None:
        """Update the report. Raises Disconnected if a value is not of its type."""
        duration: Any = message.get("duration")
        warnings: Any = message.get("warnings")
        cpu_s: Any = message.get("cpu_s")
        vad_s: Any = message.get("vad_s")
        is_text = isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)
        are_times = _is_number(cpu_s) and _is_number(vad_s) and 0 <= vad_s <= cpu_s
        if not (is_text and are_times and (duration is None or _is_number(duration))):
            raise Disconnected
        self.report.duration, self.report.warnings = duration, warnings
        self.cpu_s, self.vad_s = cpu_s, vad_s

    def _take_end(self, message: dict[str, Any]) -> None:
        """Take the last message of the process. Raises the error in it, and Disconnected if it is malformed."""
        if "crash" in message:
            logs.warning("decoding_crashed", traceback=str(message["crash"]))
            raise CorruptMedia("expected a file that can be decoded; its decoding broke down")
        self._take_report(message)
        if "error" in message:
            kind, field = _ERRORS.get(str(message["error"]), CorruptMedia), message.get("field")
            raise kind(str(message.get("message")), field if isinstance(field, str) else None)
        if "end" not in message:
            raise Disconnected

    def _read_block(
        self, memory: int, message: dict[str, Any]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Return a block of samples from shared memory, and the probabilities of speech that follow it there.

        Raises Disconnected if they are not of this file. The block's shape [n, channels] must be possible, with the
        channels of the blocks before, its samples finite, and the probabilities about as many as there are samples for.
        The memory is read, not mapped: a process that has gone mad could shrink it under a mapping.
        """
        shape: Any = message["block"]
        frames: Any = message.get("speech")
        if not (_are_counts(shape) and len(shape) == 2 and _are_counts(frames)):
            raise Disconnected
        count, channels = shape
        if not self._is_possible(count, channels, frames):
            raise Disconnected
        self._num_channels = channels
        self._count_frames(count, frames)
        numbers = np.empty(count * channels + sum(frames), np.float32)
        if numbers.nbytes and os.preadv(memory, [numbers.data.cast("B")], 0) != numbers.nbytes:
            raise Disconnected
        block, *speech = np.split(numbers, np.cumsum([count * channels, *frames[:-1]]))
        if not np.isfinite(block).all() or any(((part < 0) | (part > 1) | np.isnan(part)).any() for part in speech):
            raise Disconnected
        return block.reshape(count, channels), [part.copy() for part in speech]  # not with the block behind them

    def _is_possible(self, count: int, channels: int, frames: Sequence[int]) -> bool:
        """Return whether a block may have `count` samples of each channel, and so many probabilities of each."""
        is_short = count * channels <= MAX_PIECE_SAMPLES and sum(frames) <= MAX_PIECE_FRAMES
        is_same = self._num_channels in (0, channels) and len(frames) == channels
        is_wanted = channels == 1 or self._options.split
        return 1 <= channels <= MAX_CHANNELS and is_short and is_same and is_wanted

    def _count_frames(self, count: int, frames: Sequence[int]) -> None:
        """Count samples and probabilities. Raises Disconnected if there are not about as many as belong together."""
        self._num_heard += count
        before = self._num_frames or [0] * len(frames)
        self._num_frames = [old + new for old, new in zip(before, frames, strict=True)]
        heard = max(0, self._num_heard)
        is_too_few = min(self._num_frames) < heard // FRAME - MAX_HELD_FRAMES  # all samples would wait for them
        is_too_many = max(self._num_frames) > -(-heard // FRAME)
        if is_too_few or is_too_many:
            raise Disconnected

    def _death(self, signal_name: str) -> AsrError:
        """Log that the process has died, and return the error of its request."""
        logs.warning("audio_process_died", signal=signal_name, bytes=self._content.size)
        if signal_name == "SIGXCPU":
            return CorruptMedia("expected a file that can be decoded in a reasonable time")
        return CorruptMedia("expected a file that can be decoded; its decoding broke down")


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) and value >= 0 for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
