"""Decode files in processes of their own, so that no file can harm another or the serving process.

A supervisor process forks one audio process for each file. Bytes go in by the descriptors of the file's spool, and
blocks of samples come out by shared memory. If an audio process dies, only its own file fails, with CorruptMedia. If
the supervisor dies, the next file starts a new one. Knows no format and no window.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from handler import logs
from handler.audio.process_messages import Disconnected, new_channel, receive, send
from handler.errors import (
    OutOfMemory,
)

SUPERVISOR = "handler.audio.process_supervisor"
START_TIMEOUT_S = 60.0  # longest time that the supervisor may take to start, or to fork
MAX_STARTS = 3  # a supervisor that cannot be started this many times in a row is given up
T = TypeVar("T")


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
            if self._channel is None:
                return "unknown"
            try:
                send(self._channel, {"end": pid, "report": True})
                number = int(receive(self._channel)[0]["signal"])
                return signal.Signals(number).name if number else "none"
            except (Disconnected, TimeoutError, KeyError, ValueError, TypeError):
                self._stop()  # an answer that comes late would be taken for another's
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
