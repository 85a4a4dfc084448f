"""The Whisper engine. Windows enter free slots, each step adds a token to every sequence, and finished windows leave.

A slot is the place of one sequence in the batch. Implements handler.schema.window.Engine. Knows no request, no file and
no schedule. Does not judge results: a result carries evidence (probabilities, repetition) for other modules to judge.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from handler.errors import OutOfMemory
from handler.schema.window import SAMPLE_RATE, Samples, Window, WindowResult
from handler.timeline import Timeline
from handler.whisper.alignment import onset_strength
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.batch import Batch
from handler.whisper.cuda_graphs import CudaGraphs, cuda_capture, sizes_up_to
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import suppression
from handler.whisper.model import LogMel, Whisper
from handler.whisper.results import ResultBuilder
from handler.whisper.sequences import DecodeTask
from handler.whisper.step import Step
from handler.whisper.tokenizer import Tokenizer

# A short window is encoded with at least PADDING_S of silence after it, and at least MIN_CONTEXT_S of audio in total.
# With less of either, the network, which was trained on 30 s, begins to repeat itself. With these values, tiny.en and
# base made no more word errors than with 30 s.
PADDING_S = 6.0
MIN_CONTEXT_S = 10.0
CONTEXT_STEP_S = 2.0  # encoded lengths are multiples of it, because kernels are set up for each length
# A single window keeps a CPU busy, and a larger batch would make a short request that arrives meanwhile wait longer.
ENCODE_BATCH_SIZE_CPU = 1


@dataclass(slots=True)
class EncodedAudio:
    """The encoder's output for a window, and the onset strength, which the alignment of the window's words needs."""

    samples: Samples  # kept alive, because the key of this entry is their id, which Python could otherwise reuse
    audio: Tensor  # [positions, C]
    onset_strength: Tensor  # [frames]


class WhisperEngine:
    """Decodes windows with one Whisper checkpoint on one device.

    A single thread must make all calls, except that `token_bytes` may be called from any thread.
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
        timeline: Timeline | None = None,
    ) -> None:
        weight = model.decoder.tokens.weight
        specials = tokenizer.specials
        self.model_id = model_id
        self.device_name = device_name
        self.longest_window_s = model.dims.window_samples / SAMPLE_RATE
        self.languages = specials.languages if specials.multilingual else ("en",)
        self.detects_language = specials.multilingual
        self.text_tokens = specials.eot
        self.dtype = weight.dtype
        self.dtype_name = str(weight.dtype).removeprefix("torch.")
        self.attention = attention
        model.set_attention(attention)
        self._model = model
        self._device = weight.device
        self._tokenizer = tokenizer
        self._short_context = short_context
        self._timeline = timeline or Timeline()
        self._mel = LogMel(model.dims.n_mels, self._device)
        self._max_new_tokens = max_new_tokens
        self._suppress = tuple(suppress)
        self._bias = suppression(specials, suppress, self._device)
        self._alignment_heads = tuple(checkpoint_heads) or alignment_heads(model.dims, self.detects_language)
        self._encoded: OrderedDict[int, EncodedAudio] = OrderedDict()  # recent windows, by the id of their samples
        self._allocate(slots)

    def _allocate(self, slots: int) -> None:
        """Create all parts of the engine whose memory grows with the number of slots."""
        self.max_batch_size = slots
        self.encode_batch_size = min(slots, ENCODE_BATCH_SIZE_CPU) if self._device.type == "cpu" else slots
        specials = self._tokenizer.specials
        self._cache = KVCache(self._model.dims, slots, self._device, self.dtype)
        step = Step(self._model.decoder, self._cache, self._bias, specials)
        self._batch = Batch(step, self._cache, specials, self._max_new_tokens, self._capture_graphs(step))
        self._result_builder = ResultBuilder(self._model.decoder, self._cache, self._tokenizer, self._alignment_heads)

    def _capture_graphs(self, step: Step) -> CudaGraphs | None:
        """Capture the step as CUDA graphs, and return them. Return None if the device is not a GPU."""
        if self._device.type != "cuda":
            return None
        text_length = self._model.dims.n_text_ctx
        sizes = sizes_up_to(self.max_batch_size)
        with self._timeline.span("graphs_captured"), _inference():
            return CudaGraphs(lambda count: step.greedy(count, text_length), sizes, cuda_capture())

    def halve(self) -> None:
        """Replace the batch by an empty one with half the slots. All admitted windows are forgotten.

        Raises OutOfMemory if even the smaller batch does not fit in memory.
        """
        del self._batch, self._result_builder, self._cache  # their memory is needed for the new ones
        self._encoded.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with memory_errors():
            self._allocate(self.max_batch_size // 2)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""
        return self._tokenizer.token_bytes(token)

    def free(self) -> int:
        """Return the number of sequences that could be admitted now, which is the number of free slots."""
        return self._batch.free()

    def admit(self, windows: Sequence[Window]) -> None:
        """Encode windows, start their sequences in the next free slots, and prefill their prompts.

        Each window takes a slot per hypothesis, and together they must take at most `free()` slots. Raises OutOfMemory.
        """
        with _inference():
            encoded = self._encode(windows)
            if self._short_context:
                self._batch.resize_audio(max(len(window_audio.audio) for window_audio in encoded))
            slots = self._write_cross_kv(windows, encoded)
            languages = self._detect_languages(windows, slots)
            self._prefill([self._decode_task(*parts) for parts in zip(windows, languages, encoded, strict=True)])

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Decode one more token for every sequence. Return the windows that are finished, with their results.

        Return an empty list if no window is finished. Raises OutOfMemory.
        """
        with _inference():
            results = self._collect_finished()
            if self._batch.sequences:
                self._batch.advance()
                results += self._collect_finished()
            return results

    def drop(self, windows: Collection[Window]) -> None:
        """Free the slots of windows whose results are no longer needed. Windows that hold no slot are ignored."""
        window_ids = {id(window) for window in windows}
        tasks = [sequence.task for sequence in self._batch.sequences]
        with _inference():
            self._batch.remove([slot for slot, task in enumerate(tasks) if id(task.window) in window_ids])

    def _encode(self, windows: Sequence[Window]) -> list[EncodedAudio]:
        """Return the encoded audio of each window. Windows padded to the same length are encoded together.

        If the same samples were encoded recently, their encoded audio is reused. That is so when a window is decoded
        again with other decoding parameters.
        """
        unencoded = [window for window in windows if id(window.samples) not in self._encoded]
        for length, group in groupby(sorted(unencoded, key=self._encoder_samples), self._encoder_samples):
            equally_long = list(group)
            for start in range(0, len(equally_long), self.encode_batch_size):
                self._encode_batch(equally_long[start : start + self.encode_batch_size], length)
        encoded = [self._encoded[id(window.samples)] for window in windows]
        while len(self._encoded) > self.max_batch_size:
            self._encoded.popitem(last=False)
        return encoded

    def _encode_batch(self, windows: Sequence[Window], length: int) -> None:
        """Pad windows with silence to `length` samples, encode them in one batch, and store their encoded audio."""
        padded = np.zeros((len(windows), length), np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window.samples)] = window.samples
        mel = self._mel(self._to_device(torch.from_numpy(padded)))
        outputs = self._model.encoder(mel.to(self.dtype))
        for window, audio, strength in zip(windows, outputs, onset_strength(mel), strict=True):
            # Cloned, because a view would keep the memory of the whole batch alive.
            self._encoded[id(window.samples)] = EncodedAudio(window.samples, audio.clone(), strength)

    def _to_device(self, host: Tensor) -> Tensor:
        """Copy a tensor to the device. On a GPU the copy is asynchronous, alongside the current work of the GPU."""
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)

    def _encoder_samples(self, window: Window) -> int:
        """Return the number of samples to encode for a window, including the silence that pads it."""
        full = self._model.dims.window_samples
        if not self._short_context:
            return full
        seconds = max(MIN_CONTEXT_S, window.seconds + PADDING_S)
        return min(full, math.ceil(seconds / CONTEXT_STEP_S) * round(CONTEXT_STEP_S * SAMPLE_RATE))

    def _write_cross_kv(self, windows: Sequence[Window], encoded: Sequence[EncodedAudio]) -> slice:
        """Write the cross-attention keys and values of windows to the next free slots, and return these slots.

        Adjacent windows with the same number of hypotheses and the same audio length are written together.
        """
        start = end = self.max_batch_size - self.free()
        pairs = zip(windows, encoded, strict=True)
        for (num_hypotheses, _), group in groupby(pairs, _hypotheses_and_positions):
            audio = torch.stack([window_audio.audio for _, window_audio in group])  # [n, S, C]
            slots = slice(end, end + num_hypotheses * len(audio))
            self._model.decoder.write_cross_kv(audio, self._cache, slots)
            end = slots.stop
        return slice(start, end)

    def _detect_languages(self, windows: Sequence[Window], slots: slice) -> list[dict[str, float]]:
        """Return for each window the probability of each language, by language code.

        The dictionary of a window is empty if the window's parameters name a language or the model knows only English.
        """
        if not self.detects_language or all(window.params.language for window in windows):
            return [{} for _ in windows]
        ids = self._tokenizer.specials
        start = torch.full((slots.stop - slots.start, 1), ids.sot, device=self._device)
        hidden = self._model.decoder(start, torch.zeros_like(start), self._cache, slots, 1)
        first_id = ids.sot + 1
        logits = self._model.decoder.logits(hidden[:, 0])[:, first_id : first_id + len(ids.languages)]
        slot_probabilities = logits.softmax(-1).tolist()
        probabilities: list[dict[str, float]] = []
        slot = 0  # first slot of the current window
        for window in windows:
            detected = {} if window.params.language else dict(zip(ids.languages, slot_probabilities[slot], strict=True))
            probabilities.append(detected)
            slot += window.params.num_hypotheses
        return probabilities

    def _decode_task(
        self, window: Window, language_probabilities: dict[str, float], encoded: EncodedAudio
    ) -> DecodeTask:
        params = window.params
        language = params.language
        if not language:
            language = max(language_probabilities, key=language_probabilities.__getitem__, default="en")
        max_context = self._model.dims.n_text_ctx // 2 - 1  # half the context is for decoded tokens
        prompt = self._tokenizer.prompt(language, params.task, params.prompt, params.hotwords, max_context=max_context)
        return DecodeTask(
            window,
            tuple(prompt),
            language,
            language_probabilities,
            encoded.onset_strength,
            len(encoded.audio),
            self._suppression_bias(params.suppress),
        )

    def _suppression_bias(self, suppress: tuple[int, ...] | None) -> Tensor | None:
        """Return the logit bias [n_vocab] that suppresses the tokens of a window's `suppress` parameter.

        −1 in `suppress` stands for the engine's own list. Return None, which stands for the default bias, if `suppress`
        is None or (−1,).
        """
        if suppress is None or suppress == (-1,):
            return None
        ids = {token for token in suppress if token >= 0}
        if -1 in suppress:
            ids |= set(self._suppress)
        return suppression(self._tokenizer.specials, ids, self._device)

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
        hidden = self._model.decoder(tokens, positions, self._cache, slots, length)
        if self.detects_language:  # the start-of-transcript token, which predicts "no speech", is then not the last one
            starts = torch.tensor([prompt.index(ids.sot) for prompt in prompts], device=self._device)
            start_hidden = hidden[torch.arange(len(prompts), device=self._device), starts]
            probabilities = self._model.decoder.logits(start_hidden).softmax(-1)[:, ids.no_speech]
            for sequence, probability in zip(sequences, probabilities.tolist(), strict=True):
                sequence.task.no_speech_prob = probability

    def _collect_finished(self) -> list[tuple[Window, WindowResult]]:
        """Build the results of finished windows, free their slots, and return windows and results in pairs."""
        finished = self._batch.collect_finished()
        results = [(task.window, self._result_builder.build(slot, task)) for slot, task in finished]
        self._batch.remove([slot for slot, _ in finished])
        return results


def _hypotheses_and_positions(pair: tuple[Window, EncodedAudio]) -> tuple[int, int]:
    """Return the number of hypotheses of a window and the number of positions of its encoded audio."""
    window, encoded = pair
    return window.params.num_hypotheses, len(encoded.audio)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert PyTorch's error to OutOfMemory if the device runs out of memory in the block."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory for so much; expected a smaller BATCH_SIZE or model") from exc


@contextmanager
def _inference() -> Iterator[None]:
    """Run the block in inference mode. Raises OutOfMemory if the device runs out of memory."""
    with memory_errors(), torch.inference_mode():
        yield
