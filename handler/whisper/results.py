"""Build the results of finished tasks: segments, evidence and word times. Knows no batch and no schedule."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil

import torch
from torch import Tensor

from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import WindowResult
from handler.tokens.repetition import compression_ratio, loop_start
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.host_copy import HostCopy, host_tensor, start_copy, to_device
from handler.whisper.kv_cache import KVCache
from handler.whisper.model import Decoder
from handler.whisper.sequences import DecodeTask, Hypothesis
from handler.whisper.timestamps import TokenSegment, before_text_token, complete_segments, split_segments
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.word_times import timed_words


class ResultBuilder:
    """Builds the results of finished tasks while the KV cache still holds the text and the audio of each task."""

    def __init__(self, decoder: Decoder, cache: KVCache, tokenizer: Tokenizer) -> None:
        self._decoder = decoder
        self._cache = cache
        self._tokenizer = tokenizer

    def start(self, slot: int, audio_slot: int, task: DecodeTask) -> Callable[[], WindowResult]:
        """Do the device's part of building a finished task's result. Return a function that does the rest on the host.

        The slot and the audio slot may be overwritten once this method has returned. The function may be called in
        another thread. The result has no segments if the task only detected the language or if no text was decoded.
        """
        if task.window.params.detect_only:
            return partial(WindowResult, (), None, task.language, task.language_probabilities)
        best = task.best(self._tokenizer.specials)
        segments, result = self._read(best, task)
        if not segments:
            return lambda: result
        attention = start_copy(self._attention(slot, audio_slot, task, best, segments))
        return partial(self._assemble, task, best, segments, result, attention, start_copy(task.onset_strength))

    def _assemble(
        self,
        task: DecodeTask,
        best: Hypothesis,
        segments: Sequence[TokenSegment],
        result: WindowResult,
        attention: HostCopy,
        onset_strength: HostCopy,
    ) -> WindowResult:
        """Time the words of the segments of a hypothesis, and return `result` with them."""
        texts = [segment.ids for segment in segments]
        logprobs = [best.logprobs[segment.offset : segment.offset + len(segment.ids)] for segment in segments]
        timed = timed_words(texts, logprobs, attention(), onset_strength(), task.window, self._tokenizer)
        return replace(
            result, segments=tuple(self._segment(*parts, result) for parts in zip(texts, timed, strict=True))
        )

    def _segment(self, ids: Sequence[int], words: tuple[Word, ...], result: WindowResult) -> Segment:
        """Return a segment, which lasts from its first word's start to its last word's end."""
        start, end, text = words[0].start, words[-1].end, self._tokenizer.decode(ids)
        return Segment(start, end, text, tuple(ids), result.evidence, words, result.language)

    def _read(self, best: Hypothesis, task: DecodeTask) -> tuple[list[TokenSegment], WindowResult]:
        """Return the segments of a task's best hypothesis as tokens, and the result without segments.

        If the hypothesis ends in a loop, it is cut before the first repeat. A last segment that no timestamp
        ends is dropped if the hypothesis was cut in this way, or if it ends because the decoder's context is full. The
        segment is kept if it is the only one.
        """
        ids = self._tokenizer.specials
        loop = loop_start(best.text_tokens(ids))
        tokens = best.tokens if loop is None else before_text_token(best.tokens, loop, ids)
        is_exhausted = loop is None and best.tokens[-1] != ids.eot
        evidence = Evidence(
            avg_logprob=best.avg_logprob,
            no_speech_prob=task.no_speech_prob,
            compression_ratio=compression_ratio(self._tokenizer.decode(tokens)),
            temperature=task.window.params.temperature,
            tokens=len(best.tokens),
            looped=loop is not None,
            exhausted=is_exhausted,
        )
        segments, seek_s = split_segments(tokens, task.window.seconds, ids)
        if loop is not None or is_exhausted:
            segments, seek_s = complete_segments(segments)
        decoded = tuple(token for token in tokens if token != ids.eot)
        return segments, WindowResult((), evidence, task.language, task.language_probabilities, seek_s, decoded)

    def _attention(
        self, slot: int, audio_slot: int, task: DecodeTask, best: Hypothesis, segments: Sequence[TokenSegment]
    ) -> Tensor:
        """Return how much each text token, and the position after the last, attends to each audio position.

        The decoder has kept the queries at its steps. A task of several hypotheses is read once more, because its best
        one may have grown in a slot that holds another one by now. float32 [text tokens + 1, audio positions]
        """
        first = len(task.prompt)  # the position of the first decoded token; it was predicted at the one before
        positions = [
            first + position - 1
            for segment in segments
            for position in range(segment.offset, segment.offset + len(segment.ids))
        ]
        positions.append(min(positions[-1] + 1, first + len(best.tokens) - 2))  # the last token may not have been read
        if task.window.params.num_hypotheses > 1:
            self._read_again(slot, audio_slot, [*task.prompt, *best.tokens])
        on_device = to_device(host_tensor(positions, self._cache.k.device), self._cache.k.device)
        length = min(task.audio_positions, ceil(task.window.seconds / TIMESTAMP_S))
        return self._cache.alignment_weights(slot, audio_slot, on_device, length)

    def _read_again(self, slot: int, audio_slot: int, tokens: Sequence[int]) -> None:
        """Run the decoder on the tokens of a text, which leaves the queries of its alignment heads in the cache."""
        read = tokens[: self._cache.context]
        padding = [self._tokenizer.specials.eot] * (self._cache.length_for(len(read)) - len(read))
        padded = torch.tensor([[*read, *padding]], device=self._cache.k.device)  # [1, T]; no token attends to the right
        positions = torch.arange(padded.shape[1], device=padded.device)[None]
        slots, audio = slice(slot, slot + 1), slice(audio_slot, audio_slot + 1)
        num_layers = self._cache.alignment.num_layers
        self._decoder(padded, positions, self._cache, slots, padded.shape[1], audio, num_layers)
