"""Build the results of finished tasks: segments, evidence and word times. Knows no batch and no schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from math import ceil, exp

import torch

from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.whisper.alignment import TokenTimes, alignment_costs, dtw, peak_positions, place_words
from handler.whisper.attention import AttentionRecorder, heads_by_layer
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.kv_cache import KVCache
from handler.whisper.model import Decoder
from handler.whisper.repetition import compression_ratio, loop_start
from handler.whisper.sequences import DecodeTask
from handler.whisper.timestamps import TokenSegment, before_text_token, complete_segments, split_segments
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.word_splitting import WordTokens, split_words


@dataclass(slots=True)
class _Text:
    """The chosen hypothesis of a finished task, split into segments."""

    segments: list[TokenSegment]
    seek_s: float | None  # seconds into the window from which decoding must continue; None if it need not
    evidence: Evidence
    logprobs: list[float]  # of each decoded token, timestamps included


class ResultBuilder:
    """Builds the results of finished tasks while the KV cache still holds the audio of each task in a slot.

    `alignment_heads` are the (layer, head) pairs whose cross-attention is used to time the words.
    """

    def __init__(
        self, decoder: Decoder, cache: KVCache, tokenizer: Tokenizer, alignment_heads: tuple[tuple[int, int], ...]
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._tokenizer = tokenizer
        self._alignment_heads = heads_by_layer(alignment_heads, cache.k.device)

    def build(self, slot: int, audio_slot: int, task: DecodeTask) -> WindowResult:
        """Return the result of a finished task that has a slot and an audio slot of the KV cache.

        The text keys and values of the slot are overwritten. The result has no segments if the task only detected
        the language or if no text was decoded.
        """
        if task.window.params.detect_only:
            return WindowResult((), None, task.language, task.language_probabilities)
        text = self._text(task)
        segments: tuple[Segment, ...] = ()
        if text.segments:
            segments = tuple(self._segments(text, self._token_times(slot, audio_slot, task, text), task))
        return WindowResult(segments, text.evidence, task.language, task.language_probabilities, text.seek_s)

    def _text(self, task: DecodeTask) -> _Text:
        """Return the usable part of the task's best hypothesis.

        If the hypothesis ends in a loop, it is cut before the first repeat. A last segment that no timestamp
        ends is dropped if the hypothesis was cut in this way, or if it ends because the decoder's context is full. The
        segment is kept if it is the only one.
        """
        ids = self._tokenizer.specials
        best = task.best(ids)
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
        return _Text(segments, seek_s, evidence, best.logprobs)

    def _token_times(self, slot: int, audio_slot: int, task: DecodeTask, text: _Text) -> TokenTimes:
        """Return when each text token is spoken.

        The text tokens are run through the decoder once more, without timestamps, to record cross-attention.
        """
        ids = self._tokenizer.specials
        head = [*task.prompt[task.prompt.index(ids.sot) :], ids.no_timestamps]
        text_ids = chain.from_iterable(segment.ids for segment in text.segments)
        tokens = [*head, *text_ids][: self._cache.context]
        end = len(tokens)
        padding = [ids.eot] * (self._cache.length_for(end) - end)  # on the right, so no text token attends to it
        padded = torch.tensor([[*tokens, *padding]], device=self._cache.k.device)  # [1, T]
        positions = torch.arange(padded.shape[1], device=padded.device)[None]
        audio_length = min(task.audio_positions, ceil(task.window.seconds / TIMESTAMP_S))
        recorder = AttentionRecorder(self._alignment_heads, audio_length)
        slots, audio = slice(slot, slot + 1), slice(audio_slot, audio_slot + 1)
        self._decoder(padded, positions, self._cache, slots, padded.shape[1], audio, recorder)
        # The first text token is predicted at the last position of the head; its own position predicts the second.
        costs = alignment_costs(recorder.weights()[0, len(head) - 1 : end].cpu().numpy())
        starts = dtw(costs)
        peaks = peak_positions(costs, starts)[: end - len(head)]
        return TokenTimes(
            starts_s=[position * TIMESTAMP_S for position in starts[:-1].tolist()],
            peaks_s=[position * TIMESTAMP_S for position in peaks],
        )

    def _segments(self, text: _Text, times: TokenTimes, task: DecodeTask) -> Iterator[Segment]:
        """Yield each segment with its words. A segment lasts from its first word's start to its last word's end."""
        window = task.window
        words = [split_words(segment.ids, self._tokenizer) for segment in text.segments]
        spans = place_words(
            _token_spans(text.segments, words),
            times,
            task.onset_strength.cpu().numpy(),
            _speech_s(window),
            window.seconds,
        )
        remaining_spans = iter(spans)
        for segment, segment_words in zip(text.segments, words, strict=True):
            logprobs = text.logprobs[segment.offset :]
            timed = [_timed_word(word, next(remaining_spans), segment.ids, logprobs) for word in segment_words]
            yield Segment(
                timed[0].start,
                timed[-1].end,
                self._tokenizer.decode(segment.ids),
                tuple(segment.ids),
                text.evidence,
                tuple(timed),
                task.language,
            )


def _speech_s(window: Window) -> list[tuple[float, float]]:
    """Return the (start, end) spans of speech in a window, in seconds from the window's start."""
    return [((start - window.start) / SAMPLE_RATE, (end - window.start) / SAMPLE_RATE) for start, end in window.speech]


def _token_spans(segments: list[TokenSegment], words: list[list[WordTokens]]) -> list[tuple[float, float]]:
    """Return the start and end of each word as positions in the sequence of all text tokens of the window.

    Position 0 is the start of the first token, and the end is exclusive. A position is a fraction where several words
    share a token. words[i] are the words of segments[i], and their positions count from the first token of segments[i].
    """
    offsets = accumulate((len(segment.ids) for segment in segments), initial=0)
    spans: list[tuple[float, float]] = []
    for offset, segment_words in zip(offsets, words, strict=False):
        spans += [(offset + word.start, offset + word.end) for word in segment_words]
    return spans


def _timed_word(word: WordTokens, span_s: tuple[float, float], ids: list[int], logprobs: list[float]) -> Word:
    """Return a word with its start and end in seconds (`span_s`) and the mean probability of its tokens.

    ids[i] and logprobs[i] belong to token number i of the word's segment. `logprobs` may be longer than `ids`, because
    log-probabilities of later segments may follow.
    """
    probabilities = [exp(logprob) for logprob in logprobs[int(word.start) : ceil(word.end)]]
    first, end = ceil(word.start), ceil(word.end)  # a token shared by several words is listed in the first one
    tokens = tuple(zip(ids[first:end], logprobs[first:end], strict=True))
    return Word(*span_s, word.text, sum(probabilities) / len(probabilities), tokens)
