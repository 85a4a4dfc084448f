"""A complete file on disk, which a decoder reads in place. Knows no format."""

import os
from typing import BinaryIO


class StoredFile:
    """A file that has all of its bytes. It can be decoded like a spool."""

    has_ended = True

    def __init__(self, file: BinaryIO) -> None:
        """Create a view of an open file, which the caller keeps open. Raises OSError if it lies in memory only."""
        self._descriptor = file.fileno()
        self.size = self.head_bytes = os.fstat(self._descriptor).st_size

    def descriptors(self) -> list[int]:
        """Return a copy of the file's descriptor in a list. The caller closes it."""
        return [os.dup(self._descriptor)]

    def length(self) -> int:
        """Return the number of bytes."""
        return self.size

    def await_bytes(self, count: int) -> bool:
        """Return at once that no more bytes will arrive."""
        return True
