"""Divide words into subtitle cues that are easy to read, with line breaks and display times.

A cue has at most two lines of 42 columns and lasts 1 to 7 seconds, as broadcasters recommend. East Asian wide
characters take two columns. Pure functions. Knows no file format.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby, pairwise
from unicodedata import east_asian_width

from handler.output.line_text import without_controls
from handler.schema.transcript import Segment, Word

MAX_LINE_WIDTH = 42  # columns
MIN_CUE_S, MAX_CUE_S = 1.0, 7.0
PAUSE_S = 0.4  # a pause of at least this length is a good place to end a cue
LONG_PAUSE_S = 1.5  # a longer pause always ends a cue
SENTENCE_END, _CLAUSE_END = ".?!。？！…", ",;:，、；："
CLOSING = "\"'”’)»」』 "  # what may follow the end of a sentence
# The cost of ending a cue at each kind of place, added to a cost of 1 per cue.
_COST_MID_CLAUSE, _COST_CLAUSE_END, _COST_PAUSE, _COST_SENTENCE_END = 2.0, 0.4, 0.2, 0.0
_COST_TOO_SHORT = 6.0
_CLAUSE_BONUS = 12  # extra columns by which two lines may differ in width if the first one ends with a clause


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: one or more lines that are displayed together."""

    start: float  # seconds from the beginning of the audio
    end: float
    lines: tuple[str, ...]
    channel: int | None = None
    speaker: str | None = None


def cues(segments: Iterable[Segment], duration: float) -> list[Cue]:
    """Return the cues of a transcript in chronological order. Cues of the same channel do not overlap.

    `duration` is the length of the audio in seconds.
    """
    all_cues: list[Cue] = []
    by_channel = sorted(segments, key=lambda segment: -1 if segment.channel is None else segment.channel)
    for channel, channel_segments in groupby(by_channel, key=lambda segment: segment.channel):
        words = list(chain.from_iterable(map(_words_of, channel_segments)))
        groups = [words[start:end] for start, end in _cheapest_division(words)]
        all_cues += _to_cues(groups, duration, channel)
    return sorted(all_cues, key=lambda cue: cue.start)


def _words_of(segment: Segment) -> list[Word]:
    """Return the words of a segment without control characters. A word that is wider than a line is split."""
    words = [replace(word, text=without_controls(word.text)) for word in segment.words or _spread_evenly(segment)]
    return list(chain.from_iterable(_split_wide_word(word) for word in words if word.text.strip()))


def _spread_evenly(segment: Segment) -> list[Word]:
    """Return the words of a segment without word times. Each word lasts in proportion to its number of characters."""
    words: list[Word] = []
    texts = segment.text.split()
    start, character_s = segment.start, (segment.end - segment.start) / max(1, sum(map(len, texts)))
    for text in texts:
        words.append(Word(start, start + character_s * len(text), f" {text}", 0.0, speaker=segment.speaker))
        start = words[-1].end
    return words


def _split_wide_word(word: Word) -> list[Word]:
    if width(word.text.strip()) <= MAX_LINE_WIDTH:
        return [word]
    length = MAX_LINE_WIDTH // 2
    texts = [word.text[at : at + length] for at in range(0, len(word.text), length)]
    part_s = (word.end - word.start) / len(texts)
    return [
        replace(word, start=word.start + i * part_s, end=word.start + (i + 1) * part_s, text=text)
        for i, text in enumerate(texts)
    ]


def width(text: str) -> int:
    """Return the number of columns that a text takes. East Asian wide characters take two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _cheapest_division(words: Sequence[Word]) -> list[tuple[int, int]]:
    """Divide the words into cues such that the total cost is lowest, by dynamic programming.

    For each cue, return the index of its first word and the index after its last word.
    """
    fit = _CueFit(words)
    # best[n] is the lowest cost of the first n words, and the index of the first word of their last cue.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(words) + 1):
        cue_cost = 1 + _break_cost(words, end)
        choices = [(best[end - 1][0] + cue_cost + _shortness_cost(words, end - 1, end), end - 1)]
        start = end - 2
        while start >= 0 and fit.fits(start, end):
            choices.append((best[start][0] + cue_cost + _shortness_cost(words, start, end), start))
            start -= 1
        best.append(min(choices, key=lambda choice: choice[0]))
    spans = []
    end = len(words)
    while end:
        spans.append((best[end][1], end))
        end = best[end][1]
    return spans[::-1]


class _CueFit:
    """Checks which words fit into one cue, by means of cumulative widths that are computed only once."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = words
        # Total width of the words before each word, spaces included.
        self._columns = [0, *accumulate(width(word.text) for word in words)]
        self._leading = [len(word.text) - len(word.text.lstrip()) for word in words]
        breaks = [0]  # indices of the words that follow a long pause or another speaker
        for index, (previous, word) in enumerate(pairwise(words), 1):
            if word.start - previous.end > LONG_PAUSE_S or word.speaker != previous.speaker:
                breaks.append(index)
        self._last_break = [breaks[bisect_right(breaks, index) - 1] for index in range(len(words))]

    def fits(self, start: int, end: int) -> bool:
        """Return whether the words from index `start` to `end` (exclusive) can form one cue.

        They must fit into two lines, last at most MAX_CUE_S, be of one speaker, and have no pause longer than
        LONG_PAUSE_S between them.
        """
        if self._words[end - 1].end - self._words[start].start > MAX_CUE_S or self._last_break[end - 1] > start:
            return False
        if self._width(start, end) <= MAX_LINE_WIDTH:
            return True
        line_end = self._columns[start] + self._leading[start] + MAX_LINE_WIDTH
        # First word of the second line, if as many words as possible are in the first line.
        second_line = bisect_right(self._columns, line_end, start, end) - 1
        return start < second_line < end and self._width(second_line, end) <= MAX_LINE_WIDTH

    def _width(self, start: int, end: int) -> int:
        return self._columns[end] - self._columns[start] - self._leading[start]


def _break_cost(words: Sequence[Word], end: int) -> float:
    """Return the cost of ending a cue just before the word at index `end`. The end of a sentence costs least."""
    last_text = words[end - 1].text.rstrip(CLOSING)
    if end == len(words) or last_text.endswith(tuple(SENTENCE_END)):
        return _COST_SENTENCE_END
    if words[end].start - words[end - 1].end >= PAUSE_S:
        return _COST_PAUSE
    return _COST_CLAUSE_END if last_text.endswith(tuple(_CLAUSE_END)) else _COST_MID_CLAUSE


def _shortness_cost(words: Sequence[Word], start: int, end: int) -> float:
    """Return the extra cost of a cue that cannot last MIN_CUE_S before the next cue begins, or 0 if it can."""
    next_start = words[end].start if end < len(words) else words[end - 1].end + MIN_CUE_S
    return _COST_TOO_SHORT if next_start - words[start].start < MIN_CUE_S else 0.0


def _lines(words: Sequence[Word]) -> tuple[str, ...]:
    """Divide words into one line, or into two lines of similar width if they do not fit into one.

    A line break at the end of a clause is preferred. Return an empty tuple if two lines are not enough.
    """
    line = _text(words)
    if width(line) <= MAX_LINE_WIDTH:
        return (line,)
    choices = []
    for at in range(1, len(words)):
        upper, lower = _text(words[:at]), _text(words[at:])
        if max(width(upper), width(lower)) <= MAX_LINE_WIDTH:
            difference = abs(width(upper) - width(lower))
            bonus = _CLAUSE_BONUS if upper.endswith((*SENTENCE_END, *_CLAUSE_END)) else 0
            choices.append((difference - bonus, (upper, lower)))
    return min(choices)[1] if choices else ()


def without_arrows(text: str) -> str:
    """Replace arrows (-->) by ->, because they would be read as the times of a new cue."""
    return re.sub("-{2,}>", "->", text)


def _text(words: Sequence[Word]) -> str:
    """Join words to one line."""
    return without_arrows(" ".join("".join(word.text for word in words).split()))


def _to_cues(groups: Sequence[Sequence[Word]], duration: float, channel: int | None) -> list[Cue]:
    """Return a cue for each group of words.

    A cue shorter than MIN_CUE_S is lengthened as far as the neighbouring cues leave room. A cue longer than MAX_CUE_S
    is shortened.
    """
    channel_cues: list[Cue] = []
    for index, words in enumerate(groups):
        start, end = words[0].start, min(words[-1].end, words[0].start + MAX_CUE_S)
        next_start = groups[index + 1][0].start if index + 1 < len(groups) else max(duration, end)
        end = min(max(end, start + MIN_CUE_S), max(next_start, start))
        if end - start < MIN_CUE_S:
            previous_end = channel_cues[-1].end if channel_cues else 0.0
            start = max(end - MIN_CUE_S, previous_end)
        channel_cues.append(Cue(start, end, _lines(words) or (_text(words),), channel, words[0].speaker))
    return channel_cues
