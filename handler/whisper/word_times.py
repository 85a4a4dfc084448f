"""Time the words of a window's text from what its tokens attend to. Knows no network and no task."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import ceil, exp

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE, Window
from handler.tokens.word_splitting import WordTokens, split_words
from handler.whisper.alignment import alignment_costs, dtw, peak_positions, place_words
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Tokenizer


def timed_words(
    texts: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    attention: NDArray[np.float32],
    onset_strength: NDArray[np.float32],
    window: Window,
    tokenizer: Tokenizer,
) -> Iterator[tuple[Word, ...]]:
    """Yield the words of each segment of a window, in seconds from the window's start.

    `texts` are the text tokens of each segment, and `logprobs` their log-probabilities.
    `attention` [text tokens + 1, audio positions] is how much each token of all segments attends to each audio
    position, and so the position after the last token. onset_strength [F]. Words of tokens beyond the rows of
    `attention` are placed at the end.
    """
    words = [split_words(tokenizer.pieces(ids)) for ids in texts]
    costs = alignment_costs(attention)
    starts = dtw(costs)
    starts_s = [position * TIMESTAMP_S for position in starts[:-1].tolist()]
    peaks_s = [position * TIMESTAMP_S for position in peak_positions(costs, starts)[:-1]]
    token_spans = _token_spans(list(map(len, texts)), words)
    spans = place_words(token_spans, starts_s, peaks_s, onset_strength, _speech_s(window), window.seconds)
    bounds = pairwise(accumulate(map(len, words), initial=0))
    for ids, segment_logprobs, segment_words, (first, end) in zip(texts, logprobs, words, bounds, strict=True):
        pairs = zip(segment_words, spans[first:end], strict=True)
        yield tuple(_timed_word(word, span_s, ids, segment_logprobs) for word, span_s in pairs)


def _speech_s(window: Window) -> list[tuple[float, float]]:
    """Return the (start, end) spans of speech in a window, in seconds from the window's start."""
    return [((start - window.start) / SAMPLE_RATE, (end - window.start) / SAMPLE_RATE) for start, end in window.speech]


def _token_spans(lengths: Sequence[int], words: Sequence[Sequence[WordTokens]]) -> list[tuple[float, float]]:
    """Return the start and end of each word as positions in the sequence of all text tokens of the window.

    Position 0 is the start of the first token, and the end is exclusive. A position is a fraction where several words
    share a token. words[i] are the words of segment i, which has lengths[i] tokens, and their positions count from the
    first token of that segment.
    """
    spans: list[tuple[float, float]] = []
    for offset, segment_words in zip(accumulate(lengths, initial=0), words, strict=False):
        spans += [(offset + word.start, offset + word.end) for word in segment_words]
    return spans


def _timed_word(word: WordTokens, span_s: tuple[float, float], ids: Sequence[int], logprobs: Sequence[float]) -> Word:
    """Return a word with its start and end in seconds (`span_s`) and the mean probability of its tokens."""
    probabilities = [exp(logprob) for logprob in logprobs[int(word.start) : ceil(word.end)]]
    first, end = ceil(word.start), ceil(word.end)  # a token shared by several words is listed in the first one
    tokens = tuple(zip(ids[first:end], logprobs[first:end], strict=True))
    return Word(*span_s, word.text, sum(probabilities) / len(probabilities), tokens)
