"""Decode files in processes of their own, so that no file can harm another or the serving process.

A supervisor process forks one audio process for each file. Bytes go in by the descriptors of the file's spool, and
blocks of samples come out by shared memory. If an audio process dies, only its own file fails, with CorruptMedia. If
the supervisor dies, the next file starts a new one. Knows no format and no window.
"""

import atexit
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from handler import logs
from handler.audio.media_file import Idle
from handler.audio.media_report import MAX_CHANNELS, DecodeOptions, MediaReport
from handler.audio.process_messages import MAX_BLOCK_SAMPLES, Disconnected, close_all, new_channel, receive, send
from handler.audio.spool import Spool
from handler.audio.stored_file import StoredFile
from handler.errors import AsrError, Cancelled, CorruptMedia, OutOfMemory, all_kinds

SUPERVISOR = "handler.audio.process_supervisor"
START_TIMEOUT_S = 60.0  # longest time that the supervisor may take to start, or to fork
MAX_STARTS = 3  # a supervisor that cannot be started this many times in a row is given up
TURN_S = 0.5  # a file that needs longer for a block goes on without its turn
T = TypeVar("T")
_ERRORS = {kind.code: kind for kind in all_kinds()}


class AudioProcessPool:
    """Starts the supervisor, and asks it for audio processes. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_ready = False
        self.fault: str | None = None  # why files can no longer be decoded, or None

    def start(self) -> None:
        """Start the supervisor if it is not running, without waiting until it is ready. Raises OSError."""
        with self._lock:
            self._start()

    def fork(self, channel: socket.socket) -> int:
        """Start an audio process that listens at this end of a channel, and return its id. Raises OutOfMemory."""
        with self._lock:
            return self._with_supervisor(lambda: self._fork(channel))

    def check(self) -> None:
        """Start the supervisor if it is not running, and wait until it is ready. Raises OutOfMemory."""
        with self._lock:
            self._with_supervisor(self._await_supervisor)

    def _with_supervisor(self, action: Callable[[], T]) -> T:
        """Return the result of an action that needs the supervisor, which is started anew if it does not answer.

        If that fails, too, set `fault` and raise OutOfMemory.
        """
        reason = ""
        for _ in range(MAX_STARTS):
            try:
                result = action()
                self.fault = None
                return result
            except (Disconnected, OSError) as exc:
                reason = str(exc) or type(exc).__name__
                logs.warning("audio_supervisor_lost", reason=reason)
                self._stop()
        self.fault = f"audio processes cannot be started: {reason}"
        raise OutOfMemory(f"expected room for one more process: {reason}")

    def end(self, pid: int) -> None:
        """End an audio process, without waiting for its end."""
        with self._lock, suppress(Disconnected):
            if self._channel is not None:
                send(self._channel, {"end": pid, "report": False})

    def signal_of(self, pid: int) -> str:
        """Return the name of the signal that ended an audio process, or "none"."""
        with self._lock:
            try:
                assert self._channel is not None
                send(self._channel, {"end": pid, "report": True})
                number = int(receive(self._channel)[0]["signal"])
                return signal.Signals(number).name if number else "none"
            except (AssertionError, Disconnected, TimeoutError, KeyError, ValueError, TypeError):
                return "unknown"

    def close(self) -> None:
        """End the supervisor and all audio processes."""
        with self._lock:
            self._stop()

    def _fork(self, channel: socket.socket) -> int:
        self._await_supervisor()
        assert self._channel is not None
        send(self._channel, {"fork": True}, [channel.fileno()])
        return int(self._expect("pid"))

    def _await_supervisor(self) -> None:
        self._start()
        if not self._is_ready:
            self._expect("ready")
            self._is_ready = True

    def _expect(self, name: str) -> Any:
        """Return the value `name` of the supervisor's next message. Raises Disconnected if there is none."""
        assert self._channel is not None
        message, _ = receive(self._channel)
        if name not in message:
            raise Disconnected(message.get("failed"))
        return message[name]

    def _start(self) -> None:
        if self._supervisor is not None and self._supervisor.poll() is None:
            return
        self._stop()
        self._channel, theirs = new_channel()
        self._channel.settimeout(START_TIMEOUT_S)
        with theirs:
            self._supervisor = subprocess.Popen(  # noqa: S603 - no part of the command comes from outside
                [sys.executable, "-P", "-m", SUPERVISOR, str(theirs.fileno())],
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libraries write what they think of a file
            )

    def _stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._supervisor is not None:
            self._supervisor.kill()
            self._supervisor.wait()
        self._channel = self._supervisor = None
        self._is_ready = False


@cache
def shared_pool() -> AudioProcessPool:
    """Return the pool of this process. Its supervisor starts with the first file, or when `start` is called."""
    pool = AudioProcessPool()
    atexit.register(pool.close)
    return pool


def _environment() -> dict[str, str]:
    """Return the environment of the supervisor: where modules are found, and nothing that is secret."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OPENBLAS_NUM_THREADS": "1"}
    return environment | {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}


class AudioProcess:
    """Decodes one file in an audio process.

    `report` tells what is known of the file so far.
    """

    def __init__(self, pool: AudioProcessPool, content: Spool | StoredFile, options: DecodeOptions, idle: Idle) -> None:
        """Prepare to decode. Each wait for bytes, or for a block that takes long, is inside `idle()`."""
        self._pool = pool
        self._content = content
        self._options = options
        self._idle = idle
        self._channel: socket.socket | None = None
        self._is_closed = False
        self._num_parts = 0  # parts of the spool that the process has descriptors of
        self.waiting_since: float | None = None  # when a wait for bytes began, by the monotonic clock
        self.report = MediaReport()
        self.cpu_s = 0.0  # processor seconds that the audio process has spent

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio in blocks of samples at 16 kHz. [n, channels]

        While a block is used, the process decodes the next one. All blocks have the same number of channels. Raises
        AsrError, which is CorruptMedia if the process dies, and Cancelled after `close`.
        """
        ours, theirs = new_channel()
        with ours:
            self._channel = ours
            with theirs:
                pid = self._pool.fork(theirs)
            try:
                yield from self._exchange(ours)
            except Disconnected:
                signal_name = self._pool.signal_of(pid)
                self._check_open()
                raise self._death(signal_name) from None
            except BaseException:
                self._pool.end(pid)
                raise
            self._pool.end(pid)

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
        block_memory = os.memfd_create("block")
        try:
            self._send_state(channel, {"options": asdict(self._options)}, [block_memory])
            while True:
                self._check_open()
                message = self._receive(channel)
                if "block" in message:
                    block = _read_block(block_memory, message["block"])
                    self._take_report(message)
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
        if "length" not in question and count <= self._content.size:
            return {}
        self.waiting_since = time.monotonic()
        try:
            with self._idle():
                if "length" in question:
                    return {"length": self._content.length()}
                self._content.await_bytes(count)
                return {}
        finally:
            self.waiting_since = None

    def _send_state(self, channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message with the number of bytes that have arrived, and the descriptors of new parts of the spool."""
        content = self._content
        state = {"has_ended": content.has_ended, "size": content.size, "head_bytes": content.head_bytes}
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
        is_text = isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)
        if not (is_text and _is_number(cpu_s) and (duration is None or _is_number(duration))):
            raise Disconnected
        self.report.duration, self.report.warnings, self.cpu_s = duration, warnings, cpu_s

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

    def _death(self, signal_name: str) -> AsrError:
        """Log that the process has died, and return the error of its request."""
        logs.warning("audio_process_died", signal=signal_name, bytes=self._content.size)
        if signal_name == "SIGXCPU":
            return CorruptMedia("expected a file that can be decoded in a reasonable time")
        return CorruptMedia("expected a file that can be decoded; its decoding broke down")


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _read_block(memory: int, shape: Any) -> NDArray[np.float32]:
    """Return a block of samples from shared memory, or raise Disconnected if its shape [n, channels] is impossible.

    The memory is read, not mapped: a process that has gone mad could shrink it under a mapping.
    """
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(size, int) for size in shape)):
        raise Disconnected
    frames, channels = shape
    if frames < 0 or not 1 <= channels <= MAX_CHANNELS or frames * channels > MAX_BLOCK_SAMPLES:
        raise Disconnected
    block = np.empty((frames, channels), np.float32)
    if block.nbytes and os.preadv(memory, [block.data.cast("B")], 0) != block.nbytes:
        raise Disconnected
    return block
