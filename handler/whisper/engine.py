"""The Whisper engine. Windows enter free slots, each step adds a token to every sequence, and finished windows leave.

A slot is the place of one sequence in the batch. Implements handler.schema.window.Engine. Knows no request, no file and
no schedule. Does not judge results: a result carries evidence (probabilities, repetition) for other modules to judge.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from handler.engine.contention import Contention
from handler.engine.cpu_tuning import usable_threads, use_threads
from handler.engine.device import as_large_as_fits, on_device, release_memory
from handler.engine.device_errors import device_errors
from handler.schema.capabilities import Capabilities
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.timeline import Timeline
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.assembly import Assembly
from handler.whisper.attention import ATTENTION_KERNELS, PAGE_STEP, PagedAttention
from handler.whisper.batch import Batch
from handler.whisper.cuda_graphs import Capture
from handler.whisper.encoding import AudioEncoder
from handler.whisper.kv_cache import KVCache
from handler.whisper.language_detection import language_logits
from handler.whisper.logit_rules import suppression
from handler.whisper.model import Whisper
from handler.whisper.preparation import Background, Preparation, PreparedWindow
from handler.whisper.results import ResultBuilder
from handler.whisper.sequences import DecodeTask
from handler.whisper.step import Step
from handler.whisper.step_graphs import StepGraphs, capture_graphs
from handler.whisper.task_builder import TaskBuilder, can_steps_read_prompt
from handler.whisper.tokenizer import Tokenizer


class WhisperEngine:
    """Decodes windows with one Whisper checkpoint on one device.

    A single thread must make all calls, except that `token_bytes` may be called from any thread. `capture` makes a
    graph of a step, and `capture_encoder` one of the encoder; where they are None, there are no graphs. `background`
    prepares windows beside the steps; where it is None, steps wait. `paged` attends in a step; where it is None,
    products with masks do. All calls raise OutOfMemory if the device has no memory left, and DeviceLost if it fails.
    """

    def __init__(
        self,
        model_id: str,
        model: Whisper,
        tokenizer: Tokenizer,
        suppress: Collection[int],
        *,
        device_name: str,
        attention: str,
        slots: int,
        max_new_tokens: int,
        checkpoint_heads: Sequence[tuple[int, int]] = (),
        short_context: bool = False,
        capture: Capture | None = None,
        capture_encoder: Capture | None = None,
        background: Background | None = None,
        paged: PagedAttention | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        assert not (short_context and (capture or paged)), "captured steps and pages have audio of one length"
        self.model_id = model_id
        self.device_name = device_name
        self.attention = attention
        model.set_attention(attention)
        model.decoder.paged_attention = paged
        self._model = model
        self._device = model.decoder.tokens.weight.device
        self._tokenizer = tokenizer
        self._describe_model()
        self._short_context = short_context
        self._encoder = AudioEncoder(model, self._device, self.dtype, short_context, capture_encoder)
        self._capture = capture
        self._background = background
        self._threads = usable_threads()
        self._assembly = Assembly(ThreadPoolExecutor(1, "words") if self._device.type == "cuda" else None)
        self._contention = Contention() if self._device.type == "cpu" and background else None
        self._timeline = timeline or Timeline()
        self._max_new_tokens = max_new_tokens
        self._task_builder = TaskBuilder(tokenizer, suppress, model.dims.n_text_ctx, self._device)
        self._bias = suppression(tokenizer.specials, suppress, self._device)
        self._alignment_heads = tuple(checkpoint_heads) or alignment_heads(
            model.dims, self.capabilities.detects_language
        )
        with device_errors(), on_device(self._device):
            self._allocate(slots)
            if self._device.type == "cuda":
                with self._timeline.span("encoder_warmed"), torch.inference_mode():
                    self._encoder.warm_up(self.encode_batch_size)

    def _describe_model(self) -> None:
        """Set what others may know of the model."""
        specials = self._tokenizer.specials
        self.capabilities = Capabilities(
            languages=specials.languages if specials.multilingual else ("en",),
            tells_language=specials.multilingual,
            detects_language=specials.multilingual,
            translates=specials.multilingual,
            prompt=True,
            hotwords=True,
            word_times=True,
            token_logprobs=True,
            sampling=True,
            beam_search=True,
            text_tokens=specials.eot,
            longest_window_s=self._model.dims.window_samples / SAMPLE_RATE,
        )
        self.dtype = self._model.decoder.tokens.weight.dtype
        self.dtype_name = str(self.dtype).removeprefix("torch.")

    def _allocate(self, slots: int) -> None:
        """Create all parts of the engine whose memory grows with the number of slots. If this fails, none is kept."""
        specials = self._tokenizer.specials
        page_step = 1 if self._model.decoder.paged_attention is None else PAGE_STEP
        cache = KVCache(
            self._model.dims,
            slots,
            self._device,
            self.dtype,
            self._alignment_heads,
            page_step,
            ATTENTION_KERNELS[self.attention].is_audio_transposed,
        )
        step = Step(self._model.decoder, cache, self._bias, specials)
        self._batch = Batch(step, cache, specials, self._max_new_tokens, self._capture_graphs(step, slots))
        self._result_builder = ResultBuilder(self._model.decoder, cache, self._tokenizer)
        self._cache = cache
        self.max_batch_size = slots
        self.encode_batch_size = max(size for size in self._encoder.sizes if size <= max(1, slots // 4))
        self._preparation = Preparation(
            self._encoder, self._model.decoder, self._background, self.encode_batch_size, slots
        )

    def _capture_graphs(self, step: Step, slots: int) -> StepGraphs | None:
        """Return the graphs of the step for up to `slots` sequences, or None. Raises OutOfMemory."""
        if self._capture is None:
            return None
        with self._timeline.span("graphs_captured"), torch.inference_mode():
            return capture_graphs(step, self._model.dims.n_text_ctx, slots, self._capture)

    def halve(self) -> None:
        """Replace the batch by an empty one with half the slots, or fewer if they do not fit in memory.

        All admitted windows are forgotten. Raises OutOfMemory if not even one slot fits.
        """
        self._preparation.abandon()
        self._assembly.abandon()
        del self._batch, self._result_builder, self._cache, self._preparation  # their memory is needed for the new ones

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
        num_ahead = self.encode_batch_size if self._uses_background() else 0
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
                self._start_sequences(prepared)
            if self._batch.sequences:
                self._batch.advance()
                self._collect_finished()
            return self._assembly.take(wait=not self._batch.sequences and not self._preparation.width())

    def _prepare(self) -> None:
        """Prepare windows: in the background as far as it keeps up with the decoding, otherwise right now."""
        self._share_processors()
        preparation = self._preparation
        if preparation.width() == 0:
            return
        if not self._uses_background() or not self._batch.sequences:
            preparation.prepare_now()
        else:
            preparation.start()
            if preparation.has_waiting and self._batch.free() > self.max_batch_size // 8:
                preparation.prepare_now()

    def _uses_background(self) -> bool:
        """Return whether windows are prepared beside the decoding.

        On a GPU that is always so. On a processor it is so while others want its cores: then threads must not wait for
        each other, and each kind of work is better done by a thread of its own. Otherwise both kinds are done one after
        the other by all threads together, which is a little faster.
        """
        return self._background is not None and (self._contention is None or self._contention.is_contended)

    def _share_processors(self) -> None:
        """On a processor, look whether others want its cores, and choose the number of threads accordingly."""
        if self._contention is not None:
            self._contention.update()
        if self._device.type == "cpu":
            use_threads(max(1, self._threads // 2) if self._uses_background() else self._threads)

    def _start_sequences(self, prepared: Sequence[PreparedWindow]) -> None:
        """Start the sequences of prepared windows in the next free slots.

        Where steps are graphs, short prompts are read by steps, which all sequences take together. Other prompts are
        prefilled, for which the running sequences wait.
        """
        if self._short_context:
            self._batch.resize_audio(max(len(item.encoded.audio) for item in prepared))
        by_steps = [item for item in prepared if self.has_graphs and can_steps_read_prompt(item.window)]
        if by_steps:
            self._write_audio(by_steps)
            self._batch.add([self._task_builder.build(item, {}, by_steps=True) for item in by_steps])
        if others := [item for item in prepared if item not in by_steps]:
            self._write_audio(others)
            languages = self._detect_languages([item.window for item in others])
            self._prefill([self._task_builder.build(*parts) for parts in zip(others, languages, strict=True)])

    def _write_audio(self, prepared: Sequence[PreparedWindow]) -> None:
        """Write the keys and values of prepared windows to the next free audio slots."""
        for audio_slot, item in enumerate(prepared, len(self._batch.tasks)):
            self._cache.write_audio(slice(audio_slot, audio_slot + 1), item.cross_kv)

    def drop(self, windows: Collection[Window]) -> None:
        """Free the slots of windows whose results are no longer needed. Windows that hold no slot are ignored."""
        window_ids = {id(window) for window in windows}
        tasks = [sequence.task for sequence in self._batch.sequences]
        with self._on_device():
            self._preparation.drop(window_ids)
            self._assembly.drop(windows)
            self._batch.remove([slot for slot, task in enumerate(tasks) if id(task.window) in window_ids])

    def _detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return for each window the probability of each language, by language code.

        The dictionary of a window is empty if the window's parameters name a language or the model knows only English.
        The next free audio slots hold the audio of the windows. The next free slots are overwritten.
        """
        if not self.capabilities.detects_language or all(window.params.language for window in windows):
            return [{} for _ in windows]
        ids = self._tokenizer.specials
        first_slot, first_audio = len(self._batch.sequences), len(self._batch.tasks)
        slots, audio = (slice(first, first + len(windows)) for first in (first_slot, first_audio))
        logits = language_logits(self._model.decoder, ids, self._cache, slots, audio)
        return [
            {} if window.params.language else dict(zip(ids.languages, probabilities, strict=True))
            for window, probabilities in zip(windows, logits.softmax(-1).tolist(), strict=True)
        ]

    def _prefill(self, tasks: Sequence[DecodeTask]) -> None:
        """Add tasks to the batch, and fill the KV cache with their prompts except for the last token of each.

        The next step runs the decoder on these last tokens, whose logits predict the first new tokens.
        """
        ids = self._tokenizer.specials
        slots = self._batch.add(tasks)
        sequences = self._batch.sequences[slots]
        prompts = [sequence.task.prompt[:-1] for sequence in sequences]
        length = max(map(len, prompts))
        if not length:
            return
        # The padding is on the right, so no token of a prompt attends to it.
        padded = [[*prompt, *[ids.eot] * (length - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=self._device)  # [B, T]
        positions = torch.arange(length, device=self._device).expand_as(tokens)
        hidden = self._model.decoder(tokens, positions, self._cache, slots, length, self._batch.audio(slots))
        if (
            self.capabilities.detects_language
        ):  # the start-of-transcript token, which predicts "no speech", is then not the last one
            starts = torch.tensor([prompt.index(ids.sot) for prompt in prompts], device=self._device)
            start_hidden = hidden[torch.arange(len(prompts), device=self._device), starts]
            probabilities = self._model.decoder.logits(start_hidden).softmax(-1)[:, ids.no_speech]
            for sequence, probability in zip(sequences, probabilities.tolist(), strict=True):
                sequence.task.no_speech_prob = probability

    def _collect_finished(self) -> None:
        """Start to build the results of finished windows, and free their slots."""
        finished = self._batch.collect_finished()
        for slot, task in finished:
            finish = self._result_builder.start(slot, self._batch.audio_slot(task), task)
            self._assembly.add(task.window, finish)
        self._batch.remove([slot for slot, _ in finished])
