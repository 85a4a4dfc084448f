"""Bytes that arrive while others already read them: one writer, readers that wait. Knows not where they come from.

In memory while they are few, then in a temporary file that is gone when the spool is closed. A reader may seek; reading
what has not arrived waits for it, so a container with its index at the end needs no way of its own. To a reader a failed
or closed spool just ends, since the C libraries that read have no way for errors of ours: `check` tells afterwards.
"""

import io
import tempfile
import threading
import time
from collections.abc import Callable

from handler.errors import AsrError, Cancelled, TooLarge

IN_MEMORY = 8 * 1024**2  # bytes kept out of the file system
AVSEEK_SIZE = 0x10000  # FFmpeg's whence for "how long are you?"


class Spool:
    """A growing file of at most `cap` bytes."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._grown = threading.Condition(threading.RLock())
        self._size = 0
        self._expected: int | None = None
        self._error: AsrError | None = None
        self._complete = False
        self._deadline: float | None = None
        self._late: AsrError | None = None

    def expect(self, size: int) -> None:
        """Say how many bytes there will be. Raises TooLarge."""
        self._check(size)
        with self._grown:
            self._expected = size

    def limit(self, seconds: float, error: AsrError) -> None:
        """Give the writer so much time from now on; it and the readers that still wait then meet `error`."""
        with self._grown:
            self._deadline, self._late = time.monotonic() + seconds, error
            self._grown.notify_all()

    def write(self, data: bytes) -> None:
        """Append. Raises TooLarge beyond the cap, Cancelled once the spool is closed."""
        self._check(self._size + len(data))
        with self._grown:
            if self._late is not None and self._remaining() == 0:
                self.finish(self._late)
                raise self._late
            if self._file.closed or self._complete:
                raise Cancelled("nobody reads any more")
            self._file.seek(0, io.SEEK_END)
            self._file.write(data)
            self._size += len(data)
            self._grown.notify_all()

    def finish(self, error: AsrError | None = None) -> None:
        """No more bytes will come; `error` says why, where that is not because there are none. The first word counts."""
        with self._grown:
            if not self._complete:
                self._complete, self._error = True, error
            self._grown.notify_all()

    def check(self) -> None:
        """Raise what the writer met, if anything."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give back memory and disk; readers meet the end, and the writer's next write raises Cancelled."""
        with self._grown:
            self._file.close()
            self._grown.notify_all()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, size: int) -> None:
        if size > self._cap:
            raise TooLarge(f"expected at most {self._cap} bytes; got more")

    def read_at(self, place: int, count: int) -> bytes:
        """Up to `count` bytes from `place` on, as soon as there is one; b"" at the end."""
        with self._grown:
            self._wait(lambda: self._size > place)
            if self._file.closed:
                return b""
            self._file.seek(place)
            return self._file.read(count)

    def _wait(self, enough: Callable[[], bool]) -> None:
        """Until there is enough, or nothing more will come, or the time is up."""
        while not (self._file.closed or self._complete or enough()):
            if self._remaining() == 0:
                self.finish(self._late)
            else:
                self._grown.wait(self._remaining())

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def length(self, wait: bool) -> int | None:
        """Bytes in all where that is known; with `wait`, as soon as it is."""
        with self._grown:
            if wait and self._expected is None:
                self._wait(lambda: False)
            return self._size if self._complete else self._expected

    def reader(self) -> "SpoolReader":
        """A new reader at the first byte."""
        return SpoolReader(self)


class SpoolReader(io.RawIOBase):
    """A spool as a seekable binary file."""

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool
        self._place = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """As any file: fewer bytes than asked for only at the end."""
        parts = []
        while size and (part := self._spool.read_at(self._place, size if size > 0 else IN_MEMORY)):
            self._place += len(part)
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """As any raw file."""
        part = self.read(len(buffer))  # whole: libsndfile takes a short read for the end
        buffer[: len(part)] = part
        return len(part)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As any file. Where the length is not known yet, FFmpeg's question for it gets −1 and the end is waited for."""
        if whence == AVSEEK_SIZE:
            length = self._spool.length(wait=False)
            return -1 if length is None else length
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: 0}[whence]
        if whence == io.SEEK_END:
            base = self._spool.length(wait=True) or 0
        self._place = max(0, base + offset)
        return self._place
