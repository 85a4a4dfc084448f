"""The Whisper engine. Windows enter free slots, each step adds a token to every sequence, and finished windows leave.

A slot is the place of one sequence in the batch. Implements handler.schema.window.Engine. Knows no request, no file and
no schedule. Does not judge results: a result carries evidence (probabilities, repetition) for other modules to judge.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from handler.engine.device import as_large_as_fits, on_device, release_memory
from handler.engine.device_errors import device_errors
from handler.schema.window import Window, WindowResult
from handler.whisper.assembly import Assembly
from handler.whisper.capabilities import capabilities_of
from handler.whisper.cuda_graphs import Capture
from handler.whisper.encoding import AudioEncoder
from handler.whisper.preparation import Background, Preparation
from handler.whisper.processor_sharing import ProcessorSharing
from handler.whisper.workshop import Workshop


class WhisperEngine:
    """Decodes windows with one Whisper checkpoint on one device.

    A single thread must make all calls, except that `token_bytes` may be called from any thread. `workshop` builds the
    batch. `capture_encoder` makes a graph of the encoder; where it is None, there is no graph. `background` prepares
    windows beside the steps; where it is None, steps wait. All calls raise OutOfMemory if the device has no memory
    left, and DeviceLost if it fails.
    """

    def __init__(
        self,
        model_id: str,
        workshop: Workshop,
        *,
        device_name: str,
        slots: int,
        capture_encoder: Capture | None = None,
        background: Background | None = None,
    ) -> None:
        model = workshop.model
        self.model_id = model_id
        self.device_name = device_name
        self.attention = workshop.attention
        self.capabilities = capabilities_of(workshop.tokenizer.specials, model.dims)
        self.dtype_name = str(workshop.dtype).removeprefix("torch.")
        self._workshop = workshop
        self._model = model
        self._device = workshop.device
        self._tokenizer = workshop.tokenizer
        self._encoder = AudioEncoder(model, self._device, workshop.dtype, workshop.short_context, capture_encoder)
        self._background = background
        self._assembly = Assembly(ThreadPoolExecutor(1, "words") if self._device.type == "cuda" else None)
        self._sharing = ProcessorSharing(self._device, background is not None)
        with device_errors(), on_device(self._device):
            self._allocate(slots)
            if self._device.type == "cuda":
                with workshop.timeline.span("encoder_warmed"), torch.inference_mode():
                    self._encoder.warm_up(self.encode_batch_size)

    def _allocate(self, slots: int) -> None:
        """Create all parts of the engine whose memory grows with the number of slots. If this fails, none is kept."""
        parts = self._workshop.build(slots)
        self._batch, self._starter, self._result_builder = parts.batch, parts.starter, parts.result_builder
        self._cache = parts.cache
        self.max_batch_size = slots
        # On a processor, each sequence makes the steps of all others longer.
        self.urgent_reserve = slots - max(1, 3 * slots // 16) if self._device.type == "cpu" else slots // 4
        self.encode_batch_size = max(size for size in self._encoder.sizes if size <= max(1, slots // 4))
        self._preparation = Preparation(
            self._encoder, self._model.decoder, self._background, self.encode_batch_size, slots
        )

    def halve(self) -> None:
        """Replace the batch by an empty one with half the slots, or fewer if they do not fit in memory.

        All admitted windows are forgotten. Raises OutOfMemory if not even one slot fits.
        """
        self._preparation.abandon()
        self._assembly.abandon()
        # Their memory is needed for the new ones.
        del self._batch, self._starter, self._result_builder, self._cache, self._preparation

        def allocate(slots: int) -> None:
            with device_errors():
                self._allocate(slots)

        with on_device(self._device):
            release_memory()
            as_large_as_fits(allocate, self.max_batch_size // 2)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Run the block in inference mode on the engine's device. Raises OutOfMemory, DeviceLost."""
        with device_errors(), on_device(self._device), torch.inference_mode():
            yield

    @property
    def has_graphs(self) -> bool:
        """Whether steps are replayed as graphs."""
        return self._batch.has_graphs

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""
        return self._tokenizer.token_bytes(token)

    def free(self) -> int:
        """Return the number of sequences that could be admitted now.

        Windows that are prepared in the background need no slot yet, so there is room for a few more of them.
        """
        num_ahead = self.encode_batch_size if self._sharing.uses_background else 0
        return self._batch.free() + num_ahead - self._preparation.width()

    def admit(self, windows: Sequence[Window]) -> None:
        """Take windows over, which begin as soon as they are prepared and there are slots for their sequences.

        A window takes a slot per hypothesis, and together they must take at most `free()` slots.
        """
        self._preparation.add(windows)

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Decode one more token for every sequence. Return the windows that are finished, with their results.

        Return an empty list if no window is finished. Raises OutOfMemory.
        """
        with self._on_device():
            self._collect_finished()
            self._prepare()
            if prepared := self._preparation.take(self._batch.free()):
                self._starter.start(prepared)
            if self._batch.sequences:
                self._batch.advance()
                self._collect_finished()
            return self._assembly.take(wait=not self._batch.sequences and not self._preparation.width())

    def _prepare(self) -> None:
        """Prepare windows, beside the decoding of others where that pays."""
        self._sharing.update()
        is_beside = self._sharing.uses_background and bool(self._batch.sequences)
        self._preparation.proceed(is_beside, is_urgent=self._batch.free() > self.max_batch_size // 8)

    def drop(self, windows: Collection[Window]) -> None:
        """Free the slots of windows whose results are no longer needed. Windows that hold no slot are ignored."""
        dropped = set(windows)
        tasks = [sequence.task for sequence in self._batch.sequences]
        with self._on_device():
            self._preparation.drop(dropped)
            self._assembly.drop(windows)
            self._batch.remove([slot for slot, task in enumerate(tasks) if task.window in dropped])

    def _collect_finished(self) -> None:
        """Start to build the results of finished windows, and free their slots."""
        finished = self._batch.collect_finished()
        for slot, task in finished:
            finish = self._result_builder.start(slot, self._batch.audio_slot(task), task)
            self._assembly.add(task.window, finish)
        self._batch.remove([slot for slot, _ in finished])
