"""With how many threads PyTorch computes on a CPU. Knows no model."""

import torch
from threadpoolctl import ThreadpoolController

from handler.engine.processors import available_processors


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
