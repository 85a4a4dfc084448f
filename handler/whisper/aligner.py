"""Time the words of texts that another model has decoded, by what Whisper attends to when it reads them.

The decoder reads a text as if it had written it (teacher forcing), so that one pass tells what each token attends to.
The times then come from the same code as those of Whisper's own texts. Implements handler.schema.window.Aligner.

In shapes, B is the number of windows, T of text positions, and C of channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from math import ceil, inf
from typing import NamedTuple

import torch
from torch import Tensor

from handler.engine.device import on_device
from handler.engine.device_errors import device_errors
from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.tokens.segmentation import split_segments
from handler.whisper.alignment_queries import Heads
from handler.whisper.attention import ATTENTION_KERNELS
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.encoding import AudioEncoder, EncodedAudio
from handler.whisper.host_copy import host_tensor, to_device
from handler.whisper.kv_cache import KVCache
from handler.whisper.language_detection import language_logits
from handler.whisper.model import Whisper
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.word_times import timed_words


class _Reading(NamedTuple):
    """A window and what the decoder reads of its text."""

    window: Window
    result: WindowResult
    prompt: list[int]
    texts: list[list[int]]  # tokens of each segment
    read: list[int]  # as many tokens of all segments as the decoder's context holds


class WhisperAligner:
    """Times words with one Whisper checkpoint on one device, `slots` windows at a time.

    A single thread must make all calls. `heads` are the attention heads that align. With `short_context`, short windows
    are padded with a few seconds of silence only. All calls raise OutOfMemory if the device has no memory left, and
    DeviceLost if it fails.
    """

    def __init__(
        self,
        model_id: str,
        model: Whisper,
        tokenizer: Tokenizer,
        heads: Heads,
        *,
        attention: str,
        slots: int,
        short_context: bool,
    ) -> None:
        self.model_id = model_id
        self.languages = tokenizer.specials.languages if tokenizer.specials.multilingual else ("en",)
        self.longest_window_s = model.dims.window_samples / SAMPLE_RATE
        model.set_attention(attention)
        weight = model.decoder.tokens.weight
        self._model = model
        self._tokenizer = tokenizer
        self._device = weight.device
        self._slots = slots
        self._short_context = short_context
        is_transposed = ATTENTION_KERNELS[attention].is_audio_transposed
        with device_errors(), on_device(self._device):
            self._encoder = AudioEncoder(model, self._device, weight.dtype, short_context)
            self._cache = KVCache(
                model.dims, slots, self._device, weight.dtype, tuple(heads), is_transposed=is_transposed
            )

    def align(self, results: Sequence[tuple[Window, WindowResult]]) -> list[WindowResult]:
        """Return the result of each window with its text divided into segments and timed words.

        Words that the decoder's context has no room for get the time of the last that it has, and probability 0.
        """
        with device_errors(), on_device(self._device), torch.inference_mode():
            starts = range(0, len(results), self._slots)
            return [each for start in starts for each in self._align_batch(results[start : start + self._slots])]

    def _align_batch(self, results: Sequence[tuple[Window, WindowResult]]) -> Iterator[WindowResult]:
        """Yield the result of each of at most `slots` windows."""
        encoded = self._encoder.encode([window for window, _ in results])
        self._write_audio(encoded)
        languages = self._languages(results)
        readings = [
            self._reading(window, result, language)
            for (window, result), language in zip(results, languages, strict=True)
        ]
        logprobs = self._read(readings)
        for slot, (reading, audio, row) in enumerate(zip(readings, encoded, logprobs, strict=True)):
            yield self._result(slot, reading, audio, row)

    def _write_audio(self, encoded: Sequence[EncodedAudio]) -> None:
        """Write the keys and values of encoded windows to the audio slots."""
        if self._short_context:
            self._cache.resize_audio(max(len(each.audio) for each in encoded), 0)
        for slot, each in enumerate(encoded):
            self._cache.write_audio(slice(slot, slot + 1), self._model.decoder.cross_kv(each.audio[None]))

    def _languages(self, results: Sequence[tuple[Window, WindowResult]]) -> list[str | None]:
        """Return the language in which to read the text of each window: the one that is stated, or the likeliest."""
        specials = self._tokenizer.specials
        if not specials.multilingual:
            return [None] * len(results)
        stated = [result.language or window.params.language for window, result in results]
        if all(language in self.languages for language in stated):
            return list(stated)
        slots = slice(0, len(results))
        logits = language_logits(self._model.decoder, specials, self._cache, slots, slots)
        likeliest = [self.languages[index] for index in logits.argmax(-1).tolist()]
        return [
            language if language in self.languages else detected
            for language, detected in zip(stated, likeliest, strict=True)
        ]

    def _reading(self, window: Window, result: WindowResult, language: str | None) -> _Reading:
        prompt = self._tokenizer.prompt(language, window.params.task, max_context=0)
        prompt.append(self._tokenizer.specials.no_timestamps)
        texts = [self._tokenizer.encode(segment.text) for segment in result.segments]
        read = list(chain.from_iterable(texts))[: self._cache.context - len(prompt)]
        return _Reading(window, result, prompt, texts, read)

    def _read(self, readings: Sequence[_Reading]) -> list[list[float]]:
        """Run the decoder on prompts and texts, which leaves the queries of its alignment heads in the cache.

        Return the log-probability of each token of each text.
        """
        rows = [[*reading.prompt, *reading.read] for reading in readings]
        length = self._cache.length_for(max(map(len, rows)))
        end = self._tokenizer.specials.eot
        padded = torch.tensor([[*row, *[end] * (length - len(row))] for row in rows], device=self._device)  # [B, T]
        positions = torch.arange(length, device=self._device).expand_as(padded)
        hidden = self._forward(padded, positions)  # [B, T, C]
        logprobs = []
        for reading, states in zip(readings, hidden, strict=True):
            first = len(reading.prompt) - 1  # a token is predicted at the position before its own
            logprobs.append(self._model.decoder.logprobs_of(reading.read, states[first : first + len(reading.read)]))
        return logprobs

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the hidden states [B, T, C] of tokens [B, T], of which row b hears what is in audio slot b."""
        slots = slice(0, len(tokens))
        return self._model.decoder(tokens, positions, self._cache, slots, tokens.shape[1], slots)

    def _result(self, slot: int, reading: _Reading, audio: EncodedAudio, logprobs: Sequence[float]) -> WindowResult:
        """Return the result of a window whose text has been read in `slot`, with words."""
        window = reading.window
        num_unread = sum(map(len, reading.texts)) - len(reading.read)
        remaining = iter([*logprobs, *[-inf] * num_unread])
        of_texts = [[next(remaining) for _ in ids] for ids in reading.texts]
        attention, onsets = self._attention(slot, reading, audio).cpu(), audio.onset_strength.cpu()
        timed = timed_words(reading.texts, of_texts, attention.numpy(), onsets.numpy(), window, self._tokenizer)
        segments: list[Segment] = []
        for segment, words in zip(reading.result.segments, timed, strict=True):
            segments += _divide(segment, words)
        return replace(reading.result, segments=tuple(segments))

    def _attention(self, slot: int, reading: _Reading, audio: EncodedAudio) -> Tensor:
        """Return how much each token of a text, and its end, attends to each position of the audio."""
        first = len(reading.prompt) - 1  # a token is predicted at the position before its own
        positions = host_tensor(range(first, first + len(reading.read) + 1), self._device)
        length = min(len(audio.audio), ceil(reading.window.seconds / TIMESTAMP_S))
        return self._cache.alignment_weights(slot, slot, to_device(positions, self._device), length)


def _divide(segment: Segment, words: Sequence[Word]) -> list[Segment]:
    """Return the segments into which the words of a segment are divided, where a sentence or a pause ends one."""
    segments: list[Segment] = []
    for part in split_segments([replace(word, tokens=()) for word in words]):
        text = "".join(word.text for word in part)
        segments.append(
            replace(segment, start=part[0].start, end=part[-1].end, text=text, tokens=(), words=tuple(part))
        )
    return segments
