"""Measure how long work on a device takes."""

import time
from collections.abc import Callable
from statistics import median

import torch

ROUNDS = 5
LONG_ENOUGH_S = 0.02  # a round repeats its work until it takes this long


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return how long some work takes once, all of it that the device does included."""
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def seconds_per_call(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of some work, after one call that does not count."""
    once = seconds_of(work, device)
    repeats = max(1, min(100, round(LONG_ENOUGH_S / max(once, 1e-6))))

    def repeat() -> None:
        for _ in range(repeats):
            work()

    return median(seconds_of(repeat, device) / repeats for _ in range(ROUNDS))
