"""Prepare windows for the batch while the batch decodes: encode them, and project the audio for cross-attention.

A decoding step waits for memory, and the encoder computes, so the two side by side take less time than one after the
other, and running windows need not wait for the encoding of new ones. Knows no slot and no token.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from handler.engine.device_errors import device_errors
from handler.errors import AsrError
from handler.schema.window import Window
from handler.whisper.encoding import AudioEncoder, EncodedAudio
from handler.whisper.model import Decoder


@dataclass(frozen=True, slots=True, eq=False)
class PreparedWindow:
    """A window, its encoded audio, and the audio's keys and values for the cross-attention of each decoder layer."""

    window: Window
    encoded: EncodedAudio
    cross_kv: Sequence[Sequence[Tensor]]  # of each layer: keys and values, [1, H, S, D] each

    def tensors(self) -> list[Tensor]:
        """Return all tensors, which are on the device."""
        return [self.encoded.audio, self.encoded.onset_strength, *(tensor for pair in self.cross_kv for tensor in pair)]


Work = Callable[[], list[PreparedWindow]]


class Background(Protocol):
    """Runs one piece of work at a time, while the calling thread uses the device for something else."""

    def start(self, work: Work, inputs: Sequence[Tensor]) -> None:
        """Begin a piece of work, which reads `inputs`. The one before must be finished and its result taken."""

    def is_finished(self) -> bool:
        """Return whether `result` would return at once."""

    def result(self) -> list[PreparedWindow]:
        """Wait for the work, and return or raise its result, which the current stream may then use."""


class BackgroundThread:
    """Works on a processor in a thread of its own, with part of the processor's cores."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(1, "encoder", torch.set_num_threads, (threads,))
        self._future: Future[list[PreparedWindow]] = Future()

    def start(self, work: Work, inputs: Sequence[Tensor]) -> None:
        """Begin a piece of work in the thread."""
        self._future = self._executor.submit(torch.inference_mode()(work))

    def is_finished(self) -> bool:
        """Return whether the thread is done."""
        return self._future.done()

    def result(self) -> list[PreparedWindow]:
        """Wait for the thread, and return or raise its result."""
        return self._future.result()


class SideStream:
    """Works on a GPU in a stream of its own. The calling thread starts the kernels, and does not wait for them."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._done = torch.cuda.Event()
        self._result: list[PreparedWindow] = []

    def start(self, work: Work, inputs: Sequence[Tensor]) -> None:
        """Start the kernels of a piece of work."""
        self._stream.wait_stream(torch.cuda.current_stream())
        _keep_memory(inputs, self._stream)
        with torch.cuda.stream(self._stream):
            self._result = work()
            self._done.record()

    def is_finished(self) -> bool:
        """Return whether the stream is done."""
        return self._done.query()

    def result(self) -> list[PreparedWindow]:
        """Let the current stream wait for the work, and return its result."""
        current = torch.cuda.current_stream()
        current.wait_event(self._done)
        result, self._result = self._result, []
        for prepared in result:
            _keep_memory(prepared.tensors(), current)
        return result


def _keep_memory(tensors: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
    """See that the memory of tensors is not used again before `stream`, which did not make them, is done with them."""
    for tensor in tensors:
        tensor.record_stream(stream)


class Preparation:
    """The windows on their way into the batch: waiting, being prepared in the background, or prepared.

    `background` is None where nothing can run beside the batch. The encoded audio of the last `num_recent` windows is
    kept: a window is often decoded again, with other decoding parameters.
    """

    def __init__(
        self, encoder: AudioEncoder, decoder: Decoder, background: Background | None, batch_size: int, num_recent: int
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._background = background
        self._batch_size = batch_size  # windows that are best prepared together
        self._num_recent = num_recent
        self._waiting: deque[Window] = deque()
        self._under_way: list[Window] = []  # in the background, and not dropped since
        self._working: Background | None = None  # the background, while it has work whose result was not taken yet
        self._prepared: deque[PreparedWindow] = deque()
        self._recent: OrderedDict[int, EncodedAudio] = OrderedDict()  # by the id of their samples

    def width(self) -> int:
        """Return the number of sequences that all these windows will need."""
        windows = (*self._waiting, *self._under_way, *(prepared.window for prepared in self._prepared))
        return sum(window.params.num_hypotheses for window in windows)

    def add(self, windows: Sequence[Window]) -> None:
        """Add windows at the end."""
        self._waiting += windows

    def drop(self, windows: Collection[Window]) -> None:
        """Remove windows. Those that are not here are ignored."""
        dropped = set(windows)
        self._waiting = deque(window for window in self._waiting if window not in dropped)
        self._under_way = [window for window in self._under_way if window not in dropped]
        self._prepared = deque(prepared for prepared in self._prepared if prepared.window not in dropped)

    def abandon(self) -> None:
        """Wait for the background, and forget all windows. What the background raises is not raised here."""
        if self._working is not None:
            with suppress(AsrError, RuntimeError):
                self._working.result()
        self._working = None
        self._waiting.clear()
        self._under_way = []
        self._prepared.clear()
        self._recent.clear()

    def proceed(self, is_beside: bool, is_urgent: bool) -> None:
        """Prepare windows: beside the decoding, if `is_beside`, and otherwise right now.

        `is_urgent` says that many slots are free, because what is prepared beside the decoding does not keep up.
        """
        if self.width() == 0:
            return
        if not is_beside:
            self.prepare_now()
            return
        self.start()
        if is_urgent and self._waiting:
            self.prepare_now()

    def start(self) -> None:
        """Begin to prepare the next windows in the background, unless it is busy or there are none."""
        self._collect()
        if self._background is None or self._working is not None or not self._waiting:
            return
        windows = self._under_way = self._take_waiting()
        self._working = self._background
        known = self._known(windows)
        inputs = [encoded.audio for encoded in known if encoded is not None]
        self._background.start(lambda: self._prepare(windows, known), inputs)

    def prepare_now(self) -> None:
        """Prepare the next waiting windows in this thread. If none wait, wait for the background."""
        if self._waiting:
            windows = self._take_waiting()
            self._keep(self._prepare(windows, self._known(windows)))
        else:
            self._collect(wait=True)

    def take(self, free: int) -> list[PreparedWindow]:
        """Remove and return prepared windows, in their order, that need at most `free` sequences together."""
        self._collect()
        taken: list[PreparedWindow] = []
        while self._prepared and (free := free - self._prepared[0].window.params.num_hypotheses) >= 0:
            taken.append(self._prepared.popleft())
        return taken

    def _take_waiting(self) -> list[Window]:
        return [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]

    def _collect(self, wait: bool = False) -> None:
        """Take what the background has prepared. With `wait`, wait for it."""
        working = self._working
        if working is None or not (wait or working.is_finished()):
            return
        wanted, self._under_way, self._working = set(self._under_way), [], None
        self._keep([item for item in working.result() if item.window in wanted])

    def _keep(self, prepared: Sequence[PreparedWindow]) -> None:
        self._prepared += prepared
        for item in prepared:
            self._recent[id(item.window.samples)] = item.encoded
        while len(self._recent) > self._num_recent:
            self._recent.popitem(last=False)

    def _known(self, windows: Sequence[Window]) -> list[EncodedAudio | None]:
        """Return the encoded audio of each window that was prepared recently, and None for the others."""
        return [self._recent.get(id(window.samples)) for window in windows]

    def _prepare(self, windows: Sequence[Window], known: Sequence[EncodedAudio | None]) -> list[PreparedWindow]:
        """Encode the windows that are not known, and project the audio of all. Raises OutOfMemory, DeviceLost."""
        with device_errors():
            unknown = [window for window, encoded in zip(windows, known, strict=True) if encoded is None]
            new = iter(self._encoder.encode(unknown))
            pairs = [(window, encoded or next(new)) for window, encoded in zip(windows, known, strict=True)]
            prepared: list[PreparedWindow] = []
            for _, group in groupby(pairs, lambda pair: len(pair[1].audio)):
                equally_long = list(group)
                cross_kv = self._decoder.cross_kv(torch.stack([encoded.audio for _, encoded in equally_long]))
                for row, (window, encoded) in enumerate(equally_long):
                    own = [[tensor[row : row + 1] for tensor in layer] for layer in cross_kv]
                    prepared.append(PreparedWindow(window, encoded, own))
            return prepared
