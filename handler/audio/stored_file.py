"""A complete file on disk, which a decoder reads in place. Knows no format."""

import os
import stat
from typing import BinaryIO


class StoredFile:
    """A file that has all of its bytes. It can be decoded like a spool."""

    has_ended = True

    def __init__(self, file: BinaryIO) -> None:
        """Create a view of an open file. It has a descriptor of its own until `close`.

        Raises OSError if the file lies in memory only, or is a pipe or a device.
        """
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("expected a regular file")
        self._descriptor = os.dup(file.fileno())
        self.size = self.head_bytes = status.st_size

    def close(self) -> None:
        """Close the descriptor. `descriptors` must not be called any more."""
        os.close(self._descriptor)

    def descriptors(self) -> list[int]:
        """Return a copy of the file's descriptor in a list. The caller closes it."""
        return [os.dup(self._descriptor)]

    def length(self) -> int:
        """Return the number of bytes."""
        return self.size

    def await_bytes(self, count: int) -> bool:
        """Return at once that no more bytes will arrive."""
        return True
