"""A spool: a file that one writer appends to while readers already read the beginning.

The bytes are kept in memory as long as they are few, and then in a temporary file, which is deleted when the spool is
closed. A reader may seek. A read of bytes that have not arrived waits for them, so a container with its index at the
end needs no special treatment. If the writer fails or the spool is stopped, readers see the end of the file, because
the C libraries that read from the spool cannot pass Python exceptions on. Afterwards, `check` raises the error of the
writer. Does not know where the bytes come from.
"""

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from handler.errors import AsrError, Cancelled, TooLarge

IN_MEMORY = 8 * 1024**2  # a spool of more bytes is moved to a temporary file
ENDLESS = 2**60  # length in bytes that is assumed for a file of unknown length
Idle = Callable[[], AbstractContextManager[None]]


class Spool:
    """A file of at most `max_bytes` bytes that can be read while it is being written."""

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
        """Announce the total number of bytes, so that `length` need not wait for the last byte. Raises TooLarge."""
        self._check_size(size)
        with self._changed:
            self._expected_size = size

    def set_deadline(self, seconds: float, error: AsrError) -> None:
        """Set a deadline for the writer, `seconds` from now.

        Every `write` after the deadline raises `error`. The file ends at the first such write, or at the deadline if a
        reader is waiting then. From then on, `check` raises `error`.
        """
        with self._changed:
            self._deadline, self._deadline_error = time.monotonic() + seconds, error
            self._changed.notify_all()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises TooLarge if the spool would exceed its limit. Raises Cancelled if the spool is stopped or marked as
        complete. After the deadline, raises the error given to `set_deadline`.
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
        """Mark the file as complete, or as ended by `error` if one is given. Only the first call has an effect."""
        with self._changed:
            if not self._is_complete:
                self._is_complete, self._error = True, error
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the error that stopped the file from being written, if there was one."""
        if self._error is not None:
            raise self._error

    def on_stop(self, interrupt: Callable[[], None]) -> None:
        """Set the function that `stop` calls to end the writer's wait for bytes from its source.

        If the spool is already stopped, the function is called at once. OSError, ValueError and RuntimeError from the
        function are ignored, because closing a connection that is already closed raises them.
        """
        with self._changed:
            self._interrupt = interrupt
        if self._is_stopped:
            self.stop()

    def stop(self) -> None:
        """Stop writer and readers, without waiting for them.

        From now on, readers see the end of the file. The next call of `write` raises Cancelled.
        """
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            with suppress(OSError, ValueError, RuntimeError):
                interrupt()

    def close(self) -> None:
        """Call `stop`, and free the memory and disk space. This can take a tenth of a second if the file is large."""
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
        """Wait until the byte at `position` has arrived, and return up to `count` bytes from there.

        Return b"" if the file ends at or before `position`, or if the spool is stopped.
        """
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
        """Return whether a read at `position` returns at once, because the byte there has arrived or never will."""
        return self._size > position or self._is_complete or self._is_stopped

    def _wait_for(self, is_satisfied: Callable[[], bool]) -> None:
        """Wait until the condition is met or the file has ended. End the file if the deadline passes meanwhile."""
        while not (self._is_stopped or self._is_complete or is_satisfied()):
            if self._remaining_s() == 0:
                self.finish(self._deadline_error)
            else:
                self._changed.wait(self._remaining_s())

    def _remaining_s(self) -> float | None:
        """Return the seconds until the deadline, 0 if it has passed, or None if no deadline is set."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def length(self) -> int:
        """Wait until the total number of bytes is known, and return this number.

        `expect` announces the number; without it, the number is known when the file ends. If the writer stopped before
        the announced number, return the number of bytes that have arrived.
        """
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
        """Return a new reader at the first byte. Each wait of the reader is inside the context manager `idle()`."""
        return SpoolReader(self, idle)


class SpoolReader(io.RawIOBase):
    """A seekable binary file over a spool, whose reads wait for bytes that have not arrived."""

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
        """Return the next `size` bytes, or all remaining bytes if `size` is negative.

        Fewer than `size` bytes are returned only at the end of the file.
        """
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
        """Wait for the next byte, and return the bytes that have arrived, at most `max_bytes` of them.

        Return b"" at the end of the file.
        """
        is_ready = self._spool.is_ready(self._position)
        if not is_ready and not self._waits:
            return b""
        with nullcontext() if is_ready else self._idle():
            part = self._spool.read_at(self._position, max_bytes)
        self._position += len(part)
        return part

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill the buffer, and return the number of bytes written to it.

        The buffer is filled completely except at the end of the file, because libsndfile treats a short read as
        the end of the file.
        """
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def tell(self) -> int:
        """Return the position of the next byte to read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return that position as counted from the start of the file.

        With io.SEEK_END, wait until the length of the file is known.
        """
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
        """Keep reads and seeks from waiting while the block runs.

        A read then treats the last byte that has arrived as the end of the file. A seek relative to the end assumes
        that the file has ENDLESS bytes.
        """
        self._waits = False
        try:
            yield
        finally:
            self._waits = True

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""
        with self._idle():
            return self._spool.await_bytes(count)

    @property
    def available(self) -> int:
        """Return the number of bytes that have arrived."""
        return self._spool.size

    @property
    def is_complete(self) -> bool:
        """Return whether no more bytes will arrive."""
        return self._spool.is_complete
