"""Rows that are appended to one block of memory."""

import numpy as np

from handler.speakers.growing_array import FIRST_ROWS, GrowingArray


def test_all_rows_are_kept_in_their_order() -> None:
    growing = GrowingArray((3,), np.float32)
    assert growing.rows().shape == (0, 3)
    expected = np.arange(3 * (5 * FIRST_ROWS + 7), dtype=np.float32).reshape(-1, 3)
    for rows in np.array_split(expected, 9):
        growing.append(rows)
    assert len(growing) == len(expected)
    assert growing.rows().dtype == np.float32
    np.testing.assert_array_equal(growing.rows(), expected)
