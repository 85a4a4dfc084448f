"""Decide whether windows are prepared beside the decoding, and by how many threads each is done. Knows no window."""

import torch

from handler.engine.contention import Contention
from handler.engine.cpu_tuning import usable_threads, use_threads


class ProcessorSharing:
    """How preparing and decoding share the processors.

    On a GPU, windows are always prepared beside the decoding. On a processor they are while others want its cores: then
    threads must not wait for each other, and each kind of work is better done by a thread of its own. Otherwise both
    kinds are done one after the other by all threads together, which is a little faster.
    """

    def __init__(self, device: torch.device, has_background: bool) -> None:
        """Look at the machine. `has_background` says whether anything can be prepared beside the decoding."""
        self._has_background = has_background
        self._is_processor = device.type == "cpu"
        self._contention = Contention() if self._is_processor and has_background else None
        self._threads = usable_threads()

    @property
    def uses_background(self) -> bool:
        """Whether windows are prepared beside the decoding."""
        return self._has_background and (self._contention is None or self._contention.is_contended)

    def update(self) -> None:
        """On a processor, look whether others want its cores, and choose the number of threads accordingly."""
        if self._contention is not None:
            self._contention.update()
        if self._is_processor:
            use_threads(max(1, self._threads // 2) if self.uses_background else self._threads)
