"""An array that rows are appended to. Knows no audio."""

import numpy as np
from numpy.typing import DTypeLike, NDArray

FIRST_ROWS = 256


class GrowingArray:
    """Rows of one shape in one block of memory, which doubles when it is full.

    Many small arrays that are kept for long would lie between the large ones of a computation, whose memory could then
    not be used again.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._content: NDArray[np.generic] = np.zeros((FIRST_ROWS, *shape), dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, rows: NDArray[np.generic]) -> None:
        """Append rows. [n, *shape]"""
        end = self._size + len(rows)
        if end > len(self._content):
            larger = np.zeros((max(end, 2 * len(self._content)), *self._content.shape[1:]), self._content.dtype)
            larger[: self._size] = self._content[: self._size]
            self._content = larger
        self._content[self._size : end] = rows
        self._size = end

    def rows(self) -> NDArray[np.generic]:
        """Return a view of all rows, which holds until the next call of `append`. [n, *shape]"""
        return self._content[: self._size]
