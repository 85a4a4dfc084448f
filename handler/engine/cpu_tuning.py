"""Thread and allocator settings for work on a processor. Knows no model."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc/malloc.h


_APART_BYTES, _USUAL_BYTES = 512 * 1024, 32 * 1024**2  # blocks of their own from so many bytes on; the second as glibc has it at most


def use_one_thread() -> None:
    """From here on, PyTorch's work in this thread stays in it; to be called at its start.

    OpenMP keeps helpers for each thread that has ever asked for any. As soon as there are more helpers than processors it
    takes them to be in each other's way and puts them to sleep after every product: a step of decoding, which is hundreds of
    small ones, then takes twice as long. So only the thread that owns the device has helpers.
    """
    torch.get_num_threads()  # sets the thread up, which it would otherwise do later and undo the limit
    ThreadpoolController().limit(limits=1, user_api="openmp")


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """While weights are loaded and laid out, what is freed of them goes back to the system, where the C library is glibc.

    Else each thread's heap keeps it, and a process holds twice and a half what it has. Behind it the allocator works as it
    comes to work anyway once it has freed a large block. Source: glibc, malloc/malloc.c, M_MMAP_THRESHOLD.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    adjust(_M_MMAP_THRESHOLD, _APART_BYTES)
    try:
        yield
    finally:
        adjust(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        adjust(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)
