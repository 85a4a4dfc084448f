"""The file that a decoder reads, which may still be arriving. Knows no format."""

from contextlib import AbstractContextManager
from typing import Protocol


class MediaFile(Protocol):
    """A seekable binary file whose reads wait for bytes that have not arrived."""

    @property
    def available(self) -> int:
        """Return the number of bytes that have arrived."""

    @property
    def is_complete(self) -> bool:
        """Return whether no more bytes will arrive."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining bytes if `size` is negative.

        Fewer than `size` bytes are returned only at the end of the file.
        """

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer, and return the number of bytes written to it, which is smaller only at the file's end."""

    def read_available(self, max_bytes: int) -> bytes:
        """Wait for the next byte, and return at most `max_bytes` bytes that have arrived. Return b"" at the end."""

    def tell(self) -> int:
        """Return the position of the next byte to read."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position, and return that position. With io.SEEK_END, wait until the length is known."""

    def await_bytes(self, count: int) -> bool:
        """Wait for `count` bytes or the end of the file, and return whether the file has ended."""

    def without_waiting(self) -> AbstractContextManager[None]:
        """Keep reads and seeks from waiting while the block runs.

        A read then treats the last byte that has arrived as the end of the file.
        """
