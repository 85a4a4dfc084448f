"""The engine for models of the Hub: windows wait here, and a batch of them is decoded as a whole.

Implements handler.schema.window.Engine. Knows no request and no family of models.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

from handler.engine.device import on_device, release_memory
from handler.engine.device_errors import device_errors
from handler.hub.recognizer import Recognizer
from handler.hub.silence import Silence
from handler.hub.vocabulary import Vocabulary
from handler.schema.capabilities import Capabilities
from handler.schema.window import SAMPLE_RATE, Window, WindowResult

TURN_S = 0.05  # longest time that `advance` waits for a batch
MAX_PADDING = 1.25  # the longest window of a batch is at most this many times as long as the shortest


class HubEngine:
    """Decodes windows with one model of the Hub on one device.

    A single thread must make all calls, except that `token_bytes` may be called from any thread. Batches are decoded in
    a thread of the engine's own, so that those who are no longer wanted can be told to end. `max_batch_s` limits
    the seconds of audio in a batch, because nothing else runs until it is done. `pads` says whether windows of
    different lengths may share a batch: padding changes what some networks compute. `silence` is what the recognizer
    adds to the windows, and makes lengths equal.
    """

    def __init__(
        self,
        model_id: str,
        recognizer: Recognizer,
        capabilities: Capabilities,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        device_name: str,
        dtype_name: str,
        attention: str,
        max_batch_size: int,
        max_batch_s: float,
        pads: bool,
        silence: Silence | None = None,
    ) -> None:
        self.model_id = model_id
        self.device_name = device_name
        self.dtype_name = dtype_name
        self.attention = attention
        self.capabilities = capabilities
        self.max_batch_size = self.encode_batch_size = max_batch_size
        self.urgent_reserve = max_batch_size // 2
        self._recognizer = recognizer
        self._vocabulary = vocabulary
        self._device = device
        self._max_batch_s = max_batch_s
        self._pads = pads
        self._silence = silence
        self._waiting: list[Window] = []
        self._batch: list[Window] = []  # the windows that are being decoded
        self._dropped: set[Window] = set()  # those of them whose results are no longer needed
        self._executor = ThreadPoolExecutor(1, "recognizer")
        self._future: Future[list[WindowResult]] | None = None

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""
        return self._vocabulary.token_bytes(token)

    def free(self) -> int:
        """Return the number of windows that could be admitted now."""
        return self.max_batch_size - len(self._waiting) - len(self._batch)

    def admit(self, windows: Sequence[Window]) -> None:
        """Take windows over. Together with those that wait already, there must be at most `max_batch_size`."""
        self._waiting += windows

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Decode a batch of windows, and return those that are wanted, with their results, once they are done.

        Return an empty list if that takes longer than TURN_S: meanwhile, windows may be admitted or dropped. Raises
        OutOfMemory, DeviceLost.
        """
        if self._future is None:
            if not self._waiting:
                return []
            self._batch = self._next_batch()
            self._waiting = [window for window in self._waiting if window not in self._batch]
            self._future = self._executor.submit(self._decode, self._batch)
        if not wait([self._future], TURN_S).done:
            return []
        future, batch = self._future, self._batch
        self._future, self._batch = None, []
        pairs = zip(batch, future.result(), strict=True)
        return [(window, result) for window, result in pairs if self._is_wanted(window)]

    def _decode(self, batch: Sequence[Window]) -> list[WindowResult]:
        with device_errors(), on_device(self._device), torch.inference_mode():
            return self._recognizer.recognize(batch, self._is_wanted)

    def _is_wanted(self, window: Window) -> bool:
        return window not in self._dropped

    def _next_batch(self) -> list[Window]:
        """Return the window that has waited longest, and others like it, as many as a batch may have.

        They are about as long, and have the language and the task in common, which some networks are told once a batch.
        """
        first = self._waiting[0]
        longest = shortest = self._length(first)
        batch = [first]
        for window in self._waiting[1:]:
            length = self._length(window)
            new_longest, new_shortest = max(longest, length), min(shortest, length)
            is_alike = new_longest <= MAX_PADDING * new_shortest if self._pads else length == longest
            is_alike = is_alike and _kind(window) == _kind(first)
            if is_alike and (len(batch) + 1) * new_longest <= self._max_batch_s * SAMPLE_RATE:
                batch.append(window)
                longest, shortest = new_longest, new_shortest
        return batch

    def _length(self, window: Window) -> int:
        """Return the number of samples that the network hears of a window, silence included."""
        return len(window.samples) if self._silence is None else self._silence.length(len(window.samples))

    def halve(self) -> None:
        """Use batches of half the size from now on, and forget all windows."""
        self.drop([*self._waiting, *self._batch])
        release_memory()
        self.max_batch_size = self.encode_batch_size = self.max_batch_size // 2
        self.urgent_reserve = self.max_batch_size // 2

    def drop(self, windows: Collection[Window]) -> None:
        """Forget windows whose results are no longer needed. Windows that were not admitted are ignored."""
        self._waiting = [window for window in self._waiting if window not in windows]
        self._dropped = {window for window in self._batch if window in windows or window in self._dropped}


def _kind(window: Window) -> tuple[str | None, str]:
    """Return what the windows of a batch must have in common."""
    return window.params.language, window.params.task
