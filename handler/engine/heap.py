"""What the C library does with memory that is freed. Knows no model and no tensor. Source: glibc, malloc/malloc.c."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_EVERY_S = 1.0  # which costs some 0.7 % of the time
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks of at least this size are mapped separately, and returned to the system when they are freed.
_LOADING_MMAP_BYTES = 512 * 1024
_USUAL_MMAP_BYTES = 32 * 1024**2  # the largest value that glibc itself adjusts the threshold to


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Make the C library return freed memory to the system while the block loads and rearranges weights.

    Otherwise the heap of each thread keeps freed memory, and the process holds 2.5 times the memory that it uses. After
    the block, the allocator gets the thresholds that it would reach by itself after freeing a large allocation. Does
    nothing if the C library has no `mallopt`.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    adjust(_M_MMAP_THRESHOLD, _LOADING_MMAP_BYTES)
    try:
        yield
    finally:
        adjust(_M_MMAP_THRESHOLD, _USUAL_MMAP_BYTES)
        adjust(_M_TRIM_THRESHOLD, 2 * _USUAL_MMAP_BYTES)


class HeapTrimmer:
    """Returns freed memory to the system during work that allocates and frees arrays of many sizes, and after it.

    Small things that stay lie between them, so the heap of each thread holds on to more and more: after an hour of one
    recording, a tenth of the process. Does nothing if the C library has no `malloc_trim`.
    """

    def __init__(self, every_s: float = TRIM_EVERY_S) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
        self._every_s = every_s
        self._trimmed_at = -every_s

    def trim_if_due(self) -> None:
        """Return what is free, unless that was done less than `every_s` seconds ago. Other Python threads go on."""
        if time.monotonic() - self._trimmed_at >= self._every_s:
            self._trim(0)
            self._trimmed_at = time.monotonic()
