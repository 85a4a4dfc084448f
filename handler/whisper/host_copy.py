"""Copies between the host and a GPU that nobody waits for before they are needed. Knows no model."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HostCopy = Callable[[], NDArray[np.float32]]


def start_copy(tensor: Tensor) -> HostCopy:
    """Start to copy a tensor to the host. Return a function that waits for the copy and returns it.

    A tensor that is on the host already is not copied.
    """
    if tensor.device.type != "cuda":
        return tensor.numpy
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> NDArray[np.float32]:
        copied.synchronize()
        return copy.numpy()

    return wait


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device. A GPU copies alongside its current work, if the memory is pinned."""
    return host.to(device, non_blocking=True)


def host_tensor(values: Sequence[int] | NDArray[np.int64], device: torch.device) -> Tensor:
    """Return integers on the host, in pinned memory if `device` is a GPU, which copies from it without a wait."""
    return torch.tensor(values, dtype=torch.int64, pin_memory=device.type == "cuda")


class RowsOnTheirWay:
    """Copies rows of numbers, padded with zeros to one length, to a device.

    For a GPU they are put together in pinned memory, which is allocated once and never zeroed as a whole.
    """

    def __init__(self, rows: int, length: int, device: torch.device) -> None:
        """Make room for so many rows of at most `length` numbers."""
        self._device = device
        self._pinned = torch.zeros(rows, length, pin_memory=True) if device.type == "cuda" else None
        self._filled = [0] * rows  # how many numbers of each row may differ from zero
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def send(self, rows: Sequence[NDArray[np.float32]], length: int) -> Tensor:
        """Return the rows on the device. float32 [rows, length]"""
        if self._pinned is None or self._copied is None:
            padded = torch.zeros(len(rows), length)
            for target, row in zip(padded.numpy(), rows, strict=True):
                target[: len(row)] = row
            return padded
        self._copied.synchronize()  # the memory still holds the rows before, until they are copied
        for index, (target, row) in enumerate(zip(self._pinned.numpy(), rows, strict=False)):
            target[: len(row)] = row
            target[len(row) : self._filled[index]] = 0.0
            self._filled[index] = len(row)
        sent = self._pinned[: len(rows), :length].to(self._device, non_blocking=True)
        self._copied.record()
        return sent
