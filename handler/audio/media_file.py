"""The file that a decoder reads, which may still be arriving. Knows no format."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

PART = 8 * 1024**2  # bytes read at a time where all remaining bytes are asked for
Idle = Callable[[], AbstractContextManager[None]]


class GrowingBytes(Protocol):
    """Bytes to which more are appended until they are complete."""

    @property
    def size(self) -> int:
        """Return the number of bytes that have arrived."""

    @property
    def has_ended(self) -> bool:
        """Return whether no more bytes will arrive."""

    def is_ready(self, position: int) -> bool:
        """Return whether a read at `position` returns at once, because the byte there has arrived or never will."""

    def read_at(self, position: int, count: int) -> bytes:
        """Wait until the byte at `position` has arrived, and return up to `count` bytes, or b"" at the end."""

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end, and return whether no more bytes will arrive."""

    def length(self) -> int:
        """Wait until the total number of bytes is known, and return this number."""


class MediaFile(io.RawIOBase):
    """A seekable binary file whose reads wait for bytes that have not arrived."""

    def __init__(self, content: GrowingBytes, idle: Idle = nullcontext) -> None:
        """Create a file at its first byte. Each wait takes place inside the context manager `idle()`."""
        super().__init__()
        self._content = content
        self._idle = idle
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    @property
    def available(self) -> int:
        """Return the number of bytes that have arrived."""
        return self._content.size

    @property
    def is_complete(self) -> bool:
        """Return whether no more bytes will arrive."""
        return self._content.has_ended

    def read(self, size: int = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining bytes if `size` is negative.

        Fewer than `size` bytes are returned only at the end of the file.
        """
        parts = []
        remaining = size
        while remaining:
            part = self.read_available(remaining if remaining > 0 else PART)
            if not part:
                break
            parts.append(part)
            remaining -= len(part) if remaining > 0 else 0
        return b"".join(parts)

    def read_available(self, max_bytes: int) -> bytes:
        """Wait for the next byte, and return the bytes that have arrived, at most `max_bytes` of them.

        Return b"" at the end of the file.
        """
        with nullcontext() if self._content.is_ready(self._position) else self._idle():
            part = self._content.read_at(self._position, max_bytes)
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
        if whence == io.SEEK_END:
            with self._idle():
                base = self._content.length()
        self._position = max(0, base + offset)
        return self._position

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""
        with self._idle():
            return self._content.await_bytes(count)
