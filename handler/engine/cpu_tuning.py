"""Thread and memory allocator settings for work on a CPU. Knows no model."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

from handler.engine.processors import available_processors

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc/malloc.h
# Blocks of at least this size are mapped separately, and returned to the system when they are freed.
_LOADING_MMAP_BYTES = 512 * 1024
_USUAL_MMAP_BYTES = 32 * 1024**2  # the largest value that glibc itself adjusts the threshold to


def use_one_thread() -> None:
    """Make PyTorch compute in the calling thread alone, without OpenMP helper threads. Call it when a thread starts.

    Only the thread that owns the device may have helpers. OpenMP keeps helpers for each thread that has ever used any.
    When there are more helpers than processors, OpenMP puts them to sleep after every matrix product, because they
    would compete for the processors. A decoding step, which consists of hundreds of small products, then takes twice as
    long.
    """
    torch.get_num_threads()  # PyTorch would otherwise initialize the thread later, and undo the limit
    ThreadpoolController().limit(limits=1, user_api="openmp")


def usable_threads() -> int:
    """Return with how many threads PyTorch computes best: its own number, or that of the processors granted to us."""
    return min(torch.get_num_threads(), available_processors())


def use_threads(count: int) -> None:
    """Make PyTorch compute with so many threads in the calling thread."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Make the C library return freed memory to the system while the block loads and rearranges weights.

    Otherwise the heap of each thread keeps freed memory, and the process holds 2.5 times the memory that it uses. After
    the block, the allocator gets the thresholds that it would reach by itself after freeing a large allocation. Does
    nothing if the C library has no `mallopt`. Source: glibc, malloc/malloc.c, M_MMAP_THRESHOLD.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    adjust(_M_MMAP_THRESHOLD, _LOADING_MMAP_BYTES)
    try:
        yield
    finally:
        adjust(_M_MMAP_THRESHOLD, _USUAL_MMAP_BYTES)
        adjust(_M_TRIM_THRESHOLD, 2 * _USUAL_MMAP_BYTES)
