"""Bytes that arrive while others already read them: one writer, readers that wait. Knows not where they come from.

In memory while they are few, then in a temporary file that is gone when the spool is closed. A reader may seek; reading
what has not arrived waits for it, so a container with its index at the end needs no way of its own. To a reader a failed
or closed spool just ends, since the C libraries that read have no way for errors of ours: `check` tells afterwards.
"""

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from handler.errors import AsrError, Cancelled, TooLarge

IN_MEMORY = 8 * 1024**2  # bytes kept out of the file system
ENDLESS = 2**60  # bytes of a file whose length is not known
Idle = Callable[[], AbstractContextManager[None]]


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
        self._over = False
        self._deadline: float | None = None
        self._late: AsrError | None = None
        self._hang_up: Callable[[], None] | None = None

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
            if self._over or self._complete:
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

    def on_stop(self, hang_up: Callable[[], None]) -> None:
        """What ends the writer's wait for bytes as soon as nobody wants them any more. It may raise what a closed connection raises."""
        with self._grown:
            self._hang_up = hang_up
        if self._over:
            self.stop()

    def stop(self) -> None:
        """Nobody wants the bytes any more: readers meet the end, and the writer's next write raises Cancelled. At once."""
        with self._grown:
            self._over = True
            self._grown.notify_all()
            hang_up, self._hang_up = self._hang_up, None
        if hang_up is not None:
            with suppress(OSError, ValueError, RuntimeError):
                hang_up()

    def close(self) -> None:
        """Stop, and give back memory and disk: of a large file that takes the system a tenth of a second."""
        self.stop()
        with self._grown:
            self._file.close()

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
            if self._over:
                return b""
            self._file.seek(place)
            return self._file.read(count)

    def await_bytes(self, count: int) -> bool:
        """As soon as there are so many, or all: whether it is all."""
        with self._grown:
            self._wait(lambda: self._size >= count)
            return self._complete or self._over

    def has(self, place: int) -> bool:
        """Whether the byte at a place can be read, or will never come, without waiting."""
        return self._size > place or self._complete or self._over

    def _wait(self, enough: Callable[[], bool]) -> None:
        """Until there is enough, or nothing more will come, or the time is up."""
        while not (self._over or self._complete or enough()):
            if self._remaining() == 0:
                self.finish(self._late)
            else:
                self._grown.wait(self._remaining())

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def length(self) -> int:
        """Bytes in all, as soon as that is known."""
        with self._grown:
            if self._expected is None:
                self._wait(lambda: False)
            return self._size if self._complete or self._expected is None else self._expected

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self._size

    @property
    def complete(self) -> bool:
        """Whether no more bytes will come."""
        return self._complete

    def reader(self, idle: Idle = nullcontext) -> "SpoolReader":
        """A new reader at the first byte, which waits for bytes inside of `idle`."""
        return SpoolReader(self, idle)


class SpoolReader(io.RawIOBase):
    """A spool as a seekable binary file."""

    def __init__(self, spool: Spool, idle: Idle) -> None:
        super().__init__()
        self._spool = spool
        self._idle = idle
        self._place = 0
        self._hasty = False

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """As any file: fewer bytes than asked for only at the end."""
        parts = []
        while size and (part := self.next_piece(size if size > 0 else IN_MEMORY)):
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def next_piece(self, most: int) -> bytes:
        """What has come of the next `most` bytes, at least one of them; b"" at the end."""
        here = self._spool.has(self._place)
        if self._hasty and not here:
            return b""
        with nullcontext() if here else self._idle():
            part = self._spool.read_at(self._place, most)
        self._place += len(part)
        return part

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """As any raw file."""
        part = self.read(len(buffer))  # whole: libsndfile takes a short read for the end
        buffer[: len(part)] = part
        return len(part)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As any file; a place that is counted from the end waits until the end is known."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: 0}[whence]
        if whence == io.SEEK_END and self._hasty:
            base = ENDLESS
        elif whence == io.SEEK_END:
            with self._idle():
                base = self._spool.length()
        self._place = max(0, base + offset)
        return self._place

    @contextmanager
    def hasty(self) -> Iterator[None]:
        """Nothing waits meanwhile: what has not come is taken for the end, and there is no telling how long the file is."""
        self._hasty = True
        try:
            yield
        finally:
            self._hasty = False

    def await_bytes(self, count: int) -> bool:
        """As soon as there are so many, or all: whether it is all."""
        with self._idle():
            return self._spool.await_bytes(count)

    def piecewise(self) -> "Piecewise":
        """The same file for FFmpeg."""
        return Piecewise(self, self._spool)


class Piecewise:
    """A file as FFmpeg is to see it while it arrives: a read gives what has come, and there is no end to look at first."""

    def __init__(self, reader: SpoolReader, spool: Spool) -> None:
        self.tell = reader.tell
        self._reader = reader
        self._spool = spool

    def read(self, size: int) -> bytes:
        """At least one byte, but at the end."""
        return self._reader.next_piece(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file; −1 where the end is asked for and has not come. Demuxers ask for it to tell how long a file is."""
        if whence == io.SEEK_END and not self._spool.complete:
            return -1
        return self._reader.seek(offset, whence)
