"""A file that is read while it is still arriving: one writer, and readers that wait for bytes.

It is kept in memory while it is small, then in a temporary file that disappears when the spool is closed. A reader may
seek, and reading bytes that have not arrived waits for them, so a container with its index at the end needs no special
case. If the writer fails or the spool is stopped, readers see the end of the file, because the C libraries that read it
cannot pass our errors on; `check` raises the error afterwards. Does not know where the bytes come from.
"""

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from handler.errors import AsrError, Cancelled, TooLarge

IN_MEMORY = 8 * 1024**2  # bytes up to which a spool stays in memory
ENDLESS = 2**60  # stands for the length in bytes of a file whose length is not known
Idle = Callable[[], AbstractContextManager[None]]


class Spool:
    """A growing file of at most `max_bytes` bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._changed = threading.Condition(threading.RLock())
        self._size = 0
        self._expected_size: int | None = None
        self._error: AsrError | None = None
        self._is_complete = False
        self._is_stopped = False
        self._deadline: float | None = None
        self._deadline_error: AsrError | None = None
        self._interrupt: Callable[[], None] | None = None

    def expect(self, size: int) -> None:
        """Announce the total number of bytes. Raises TooLarge."""
        self._check_size(size)
        with self._changed:
            self._expected_size = size

    def set_deadline(self, seconds: float, error: AsrError) -> None:
        """Give the writer `seconds` from now on; after that it raises `error`, and so does `check`."""
        with self._changed:
            self._deadline, self._deadline_error = time.monotonic() + seconds, error
            self._changed.notify_all()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises TooLarge, Cancelled once the spool is stopped, and the deadline's error after the deadline.
        """
        self._check_size(self._size + len(data))
        with self._changed:
            if self._deadline_error is not None and self._remaining_s() == 0:
                self.finish(self._deadline_error)
                raise self._deadline_error
            if self._is_stopped or self._is_complete:
                raise Cancelled("nobody reads any more")
            self._file.seek(0, io.SEEK_END)
            self._file.write(data)
            self._size += len(data)
            self._changed.notify_all()

    def finish(self, error: AsrError | None = None) -> None:
        """Mark the file as complete, or as ended by `error`. Only the first call has an effect."""
        with self._changed:
            if not self._is_complete:
                self._is_complete, self._error = True, error
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the writer's error, if there was one."""
        if self._error is not None:
            raise self._error

    def on_stop(self, interrupt: Callable[[], None]) -> None:
        """Set a function that ends the writer's wait for bytes; it may raise the errors of a closed connection."""
        with self._changed:
            self._interrupt = interrupt
        if self._is_stopped:
            self.stop()

    def stop(self) -> None:
        """Stop without waiting: readers see the end of the file, and the writer's next write raises Cancelled."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            with suppress(OSError, ValueError, RuntimeError):
                interrupt()

    def close(self) -> None:
        """Stop, and free memory and disk, which can take a tenth of a second if the file is large."""
        self.stop()
        with self._changed:
            self._file.close()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"expected at most {self._max_bytes} bytes; got more")

    def read_at(self, position: int, count: int) -> bytes:
        """Wait for at least one byte at `position`, and return up to `count` of them; b"" at the end."""
        with self._changed:
            self._wait_for(lambda: self._size > position)
            if self._is_stopped:
                return b""
            self._file.seek(position)
            return self._file.read(count)

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""
        with self._changed:
            self._wait_for(lambda: self._size >= count)
            return self._is_complete or self._is_stopped

    def is_ready(self, position: int) -> bool:
        """Return whether reading at `position` does not wait: its byte has arrived, or never will."""
        return self._size > position or self._is_complete or self._is_stopped

    def _wait_for(self, is_satisfied: Callable[[], bool]) -> None:
        """Wait until a condition is met, the file has ended or the deadline has passed."""
        while not (self._is_stopped or self._is_complete or is_satisfied()):
            if self._remaining_s() == 0:
                self.finish(self._deadline_error)
            else:
                self._changed.wait(self._remaining_s())

    def _remaining_s(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def length(self) -> int:
        """Wait until the total number of bytes is known, and return it."""
        with self._changed:
            if self._expected_size is None:
                self._wait_for(lambda: False)
            return self._size if self._is_complete or self._expected_size is None else self._expected_size

    @property
    def size(self) -> int:
        """Return the number of bytes that have arrived."""
        return self._size

    @property
    def is_complete(self) -> bool:
        """Return whether no more bytes will arrive."""
        return self._is_complete

    def reader(self, idle: Idle = nullcontext) -> "SpoolReader":
        """Return a new reader at the first byte, which waits for bytes inside the context `idle()`."""
        return SpoolReader(self, idle)


class SpoolReader(io.RawIOBase):
    """A spool as a seekable binary file."""

    def __init__(self, spool: Spool, idle: Idle) -> None:
        super().__init__()
        self._spool = spool
        self._idle = idle
        self._position = 0
        self._waits = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, fewer only at the end of the file."""
        parts = []
        remaining = size
        while remaining:
            part_size = remaining if remaining > 0 else IN_MEMORY
            part = self.read_available(part_size)
            if not part:
                break
            parts.append(part)
            remaining -= len(part) if remaining > 0 else 0
        return b"".join(parts)

    def read_available(self, max_bytes: int) -> bytes:
        """Wait for at least one byte, and return those of the next `max_bytes` that have arrived; b"" at the end."""
        is_ready = self._spool.is_ready(self._position)
        if not is_ready and not self._waits:
            return b""
        with nullcontext() if is_ready else self._idle():
            part = self._spool.read_at(self._position, max_bytes)
        self._position += len(part)
        return part

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill the buffer, less only at the end of the file, because libsndfile takes a short read for the end."""
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it; one that is relative to the end waits until the length is known."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: 0}[whence]
        if whence == io.SEEK_END and not self._waits:
            base = ENDLESS
        elif whence == io.SEEK_END:
            with self._idle():
                base = self._spool.length()
        self._position = max(0, base + offset)
        return self._position

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Make reads end at the last byte that has arrived, and seeks take the length for unknown."""
        self._waits = False
        try:
            yield
        finally:
            self._waits = True

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""
        with self._idle():
            return self._spool.await_bytes(count)

    def for_ffmpeg(self) -> "FFmpegFile":
        """Return the same file in the form that FFmpeg needs."""
        return FFmpegFile(self, self._spool)


class FFmpegFile:
    """A spool as a file for FFmpeg: reads return what has arrived, and its end is unknown until it has arrived."""

    def __init__(self, reader: SpoolReader, spool: Spool) -> None:
        self.tell = reader.tell
        self._reader = reader
        self._spool = spool

    def read(self, size: int) -> bytes:
        """Return at least one byte, except at the end."""
        return self._reader.read_available(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it; return −1 if it is relative to an end that has not arrived.

        Demuxers seek to the end to measure the length of a file, and can do without.
        """
        if whence == io.SEEK_END and not self._spool.is_complete:
            return -1
        return self._reader.seek(offset, whence)
