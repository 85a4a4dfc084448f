"""Thread and allocator settings for work on a processor. Knows no model."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc/malloc.h
_LOADING_MMAP_BYTES = 512 * 1024  # blocks of this size or more are mapped separately, and returned when freed
_USUAL_MMAP_BYTES = 32 * 1024**2  # the largest value that glibc's own adjustment reaches


def use_one_thread() -> None:
    """Keep PyTorch's work inside this thread from now on; to be called at the thread's start.

    OpenMP keeps helper threads for each thread that has ever used any. When there are more helpers than processors,
    OpenMP puts them to sleep after every matrix product, since they would compete: a decoding step, which consists of
    hundreds of small products, then takes twice as long. So only the thread that owns the device has helpers.
    """
    torch.get_num_threads()  # initializes the thread: PyTorch would otherwise do it later and undo the limit
    ThreadpoolController().limit(limits=1, user_api="openmp")


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Return freed memory to the system while a block loads weights and lays them out, if the C library is glibc.

    Otherwise each thread's heap keeps it, and a process holds 2.5 times the memory that it uses. After the block the
    allocator behaves as it would anyway after it has freed a large block.
    Source: glibc, malloc/malloc.c, M_MMAP_THRESHOLD.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    adjust(_M_MMAP_THRESHOLD, _LOADING_MMAP_BYTES)
    try:
        yield
    finally:
        adjust(_M_MMAP_THRESHOLD, _USUAL_MMAP_BYTES)
        adjust(_M_TRIM_THRESHOLD, 2 * _USUAL_MMAP_BYTES)
