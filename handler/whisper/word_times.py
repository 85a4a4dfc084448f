"""Time the words of a window's text from what its tokens attend to. Knows no network and no task."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import ceil, exp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE, Window
from handler.tokens.word_splitting import WordTokens, split_words
from handler.whisper.alignment import TokenTimes, alignment_costs, dtw, peak_positions, place_words
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Tokenizer


class TextTokens(NamedTuple):
    """The text tokens of a segment, and the log-probability of each, which those of later segments may follow."""

    ids: Sequence[int]
    logprobs: Sequence[float]


def timed_words(
    texts: Sequence[TextTokens],
    attention: NDArray[np.float32],
    onset_strength: NDArray[np.float32],
    window: Window,
    tokenizer: Tokenizer,
) -> Iterator[tuple[Word, ...]]:
    """Yield the words of each segment of a window, in seconds from the window's start.

    `attention` [text tokens + 1, audio positions] is how much each token of all segments attends to each audio
    position, and so the position after the last token. onset_strength [F]. Words of tokens beyond the rows of
    `attention` are placed at the end.
    """
    words = [split_words(tokenizer.pieces(text.ids)) for text in texts]
    lengths = [len(text.ids) for text in texts]
    spans = place_words(
        _token_spans(lengths, words), _token_times(attention), onset_strength, _speech_s(window), window.seconds
    )
    bounds = pairwise(accumulate(map(len, words), initial=0))
    for text, segment_words, (first, end) in zip(texts, words, bounds, strict=True):
        pairs = zip(segment_words, spans[first:end], strict=True)
        yield tuple(_timed_word(word, span_s, text) for word, span_s in pairs)


def _token_times(attention: NDArray[np.float32]) -> TokenTimes:
    """Return when each text token is spoken, from how much each attends to each audio position. [tokens + 1, S]"""
    costs = alignment_costs(attention)
    starts = dtw(costs)
    return TokenTimes(
        starts_s=[position * TIMESTAMP_S for position in starts[:-1].tolist()],
        peaks_s=[position * TIMESTAMP_S for position in peak_positions(costs, starts)[:-1]],
    )


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


def _timed_word(word: WordTokens, span_s: tuple[float, float], text: TextTokens) -> Word:
    """Return a word with its start and end in seconds (`span_s`) and the mean probability of its tokens."""
    probabilities = [exp(logprob) for logprob in text.logprobs[int(word.start) : ceil(word.end)]]
    first, end = ceil(word.start), ceil(word.end)  # a token shared by several words is listed in the first one
    tokens = tuple(zip(text.ids[first:end], text.logprobs[first:end], strict=True))
    return Word(*span_s, word.text, sum(probabilities) / len(probabilities), tokens)
