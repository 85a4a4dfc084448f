"""A spool: a file that one writer appends to while readers already read the beginning.

The first bytes are kept in memory, in an anonymous file, and the rest in a temporary file, which is deleted when the
spool is closed. Both are plain files, so that another process can read them, too. A reader may seek. A read of bytes
that have not arrived waits for them, so a container with its index at the end needs no special treatment. If the writer
fails or the spool is stopped, readers see the end of the file. Afterwards, `check` raises the error of the writer. Does
not know where the bytes come from.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from handler.audio.media_file import Idle, MediaFile
from handler.errors import AsrError, Cancelled, StorageFull, TooLarge

IN_MEMORY = 8 * 1024**2  # this many bytes of a spool are kept in memory
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG}


class SpoolBudget:
    """Limits how many bytes all spools of a process hold together. `limit` is None if there is no limit."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def reserve(self, count: int) -> None:
        """Reserve room for more bytes. Raises StorageFull if there is not enough."""
        with self._lock:
            if self._limit is not None and self._used + count > self._limit:
                raise StorageFull(f"expected at most {self._limit} bytes in all files together (MAX_SPOOL_BYTES)")
            self._used += count

    def give_back(self, count: int) -> None:
        """Give back the room of bytes that were deleted."""
        with self._lock:
            self._used -= count


class Spool:
    """A file of at most `max_bytes` bytes that can be read while it is being written."""

    def __init__(self, max_bytes: int, budget: SpoolBudget | None = None) -> None:
        """Create an empty spool, whose bytes count towards `budget`. Raises StorageFull."""
        self._is_closed = True  # as long as there is nothing to close
        self._max_bytes = max_bytes
        self._budget = budget or SpoolBudget()
        self._tail: int | None = None  # descriptor of the file with the bytes behind those in memory
        self.head_bytes = IN_MEMORY  # number of bytes kept in memory
        self._changed = threading.Condition(threading.RLock())
        self._size = 0
        self._expected_size: int | None = None
        self._error: AsrError | None = None
        self._is_complete = False
        self._is_stopped = False
        self._interrupt: Callable[[], None] | None = None
        with full_disk_as_storage_full():
            self._head = os.memfd_create("spool")
        self._is_closed = False

    def expect(self, size: int) -> None:
        """Announce the total number of bytes, so that `length` need not wait for the last byte. Raises TooLarge."""
        self._check_size(size)
        with self._changed:
            self._expected_size = size

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises TooLarge if the spool would exceed its limit, and StorageFull if the disk or all spools together would
        exceed theirs. Raises Cancelled if the spool is stopped or marked as complete.
        """
        self._check_size(self._size + len(data))
        with self._changed:
            if self._is_stopped or self._is_complete:
                raise Cancelled("nobody reads any more")
            self._budget.reserve(len(data))
            try:
                with full_disk_as_storage_full():
                    self._append(data)
            except BaseException:
                self._budget.give_back(len(data))
                raise
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
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._head)
            if self._tail is not None:
                os.close(self._tail)
        self._budget.give_back(self._size)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"expected at most {self._max_bytes} bytes; got more")

    def _append(self, data: bytes) -> None:
        """Write bytes behind the last one, in memory or on disk. Raises OSError."""
        in_memory = max(0, self.head_bytes - self._size)
        _write_all(self._head, data[:in_memory], self._size)
        if len(data) > in_memory:
            if self._tail is None:
                with tempfile.TemporaryFile() as file:
                    self._tail = os.dup(file.fileno())
            _write_all(self._tail, data[in_memory:], max(0, self._size - self.head_bytes))

    def read_at(self, position: int, count: int) -> bytes:
        """Wait until the byte at `position` has arrived, and return up to `count` bytes from there.

        Return b"" if the file ends at or before `position`, or if the spool is stopped.
        """
        with self._changed:
            self._wait_for(lambda: self._size > position)
            if self._is_stopped:
                return b""
            count = min(count, self._size - position)
            return read_parts([self._head, self._tail], self.head_bytes, position, count) if count > 0 else b""

    def descriptors(self) -> list[int]:
        """Return copies of the descriptors of the file's parts, which the caller closes: in memory, then on disk.

        The second exists only if the file has more than IN_MEMORY bytes. Return [] if the spool is closed.
        """
        with self._changed:
            if self._is_closed:
                return []
            with full_disk_as_storage_full():
                return [os.dup(part) for part in (self._head, self._tail) if part is not None]

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""
        with self._changed:
            self._wait_for(lambda: self._size >= count)
            return self.has_ended

    @property
    def has_ended(self) -> bool:
        """Return whether readers see the end of the file behind the bytes that have arrived."""
        return self._is_complete or self._is_stopped

    def is_ready(self, position: int) -> bool:
        """Return whether a read at `position` returns at once, because the byte there has arrived or never will."""
        return self._size > position or self.has_ended

    def _wait_for(self, is_satisfied: Callable[[], bool]) -> None:
        """Wait until the condition is met or the file has ended."""
        while not (self._is_stopped or self._is_complete or is_satisfied()):
            self._changed.wait()

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

    def reader(self, idle: Idle = nullcontext) -> MediaFile:
        """Return a new reader at the first byte. Each wait of the reader is inside the context manager `idle()`."""
        return MediaFile(self, idle)


def read_parts(parts: Sequence[int | None], head_bytes: int, position: int, count: int) -> bytes:
    """Read up to `count` bytes of a spool at a position.

    `parts` are the descriptors of its first `head_bytes` bytes and of the rest, if there is one. Return bytes of one
    part only, and at least one unless the file ends at `position`.
    """
    head, tail = (*parts, None)[:2]
    assert head is not None
    if position < head_bytes:
        return os.pread(head, min(count, head_bytes - position), position)
    return b"" if tail is None else os.pread(tail, count, position - head_bytes)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    """Write bytes at a position of a file, even if the system takes only a part of them at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


@contextmanager
def full_disk_as_storage_full() -> Iterator[None]:
    """Raise StorageFull for an OSError in the block that says that nothing more can be stored."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        raise StorageFull("expected room for the file; the temporary folder or the memory has none left") from exc
