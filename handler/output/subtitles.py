"""Words to cues that a person can read: where lines and cues end, and how long they stay. Pure functions; knows no file format.

At most two lines of 42 characters and 1 to 7 seconds a cue, as broadcasters ask for; wide characters count twice.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from unicodedata import east_asian_width

from handler.schema.transcript import Segment, Word

LINE = 42  # characters
SHORTEST_S, LONGEST_S = 1.0, 7.0
PAUSE_S = 0.4  # a pause that a cue may well end at
LONG_PAUSE_S = 1.5  # a pause that ends a cue
_SENTENCE_END, _CLAUSE_END = ".?!。？！…", ",;:，、；："
# What ending a cue costs; each cue more costs 1.
_NOWHERE, _AT_CLAUSE, _AT_PAUSE, _AT_SENTENCE = 2.0, 0.4, 0.2, 0.0
_TOO_SHORT = 6.0


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines that are shown together."""

    start: float  # seconds
    end: float
    lines: tuple[str, ...]
    channel: int | None = None


def cues(segments: Iterable[Segment], duration: float) -> list[Cue]:
    """The cues of a transcript of `duration` seconds, in order; those of one channel do not overlap."""
    found: list[Cue] = []
    by_channel = sorted(segments, key=lambda segment: -1 if segment.channel is None else segment.channel)
    for channel, mine in groupby(by_channel, key=lambda segment: segment.channel):
        words = [word for segment in mine for word in _words(segment)]
        found += _timed([words[a:b] for a, b in _divided(words)], duration, channel)
    return sorted(found, key=lambda cue: cue.start)


def _words(segment: Segment) -> list[Word]:
    """Words of a segment, none wider than a line; where it has none, its text divided evenly in time."""
    words = list(segment.words)
    if not words:
        parts = segment.text.split()
        at, each = segment.start, (segment.end - segment.start) / max(1, sum(map(len, parts)))
        for part in parts:
            words.append(Word(at, at + each * len(part), f" {part}", 0.0))
            at = words[-1].end
    return [piece for word in words if word.text.strip() for piece in _narrow(word)]


def _narrow(word: Word) -> list[Word]:
    if width(word.text.strip()) <= LINE:
        return [word]
    count = LINE // 2
    pieces = [word.text[at : at + count] for at in range(0, len(word.text), count)]
    each = (word.end - word.start) / len(pieces)
    return [replace(word, start=word.start + i * each, end=word.start + (i + 1) * each, text=text) for i, text in enumerate(pieces)]


def width(text: str) -> int:
    """Columns that a text takes."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _divided(words: Sequence[Word]) -> list[tuple[int, int]]:
    """Where cues begin and end, of all ways the cheapest: each word's best cue before it is known when its own is looked for."""
    room = _Room(words)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the words so far, and where their last cue begins
    for end in range(1, len(words) + 1):
        ending = 1 + _ending(words, end)
        choices = [(best[end - 1][0] + ending + _shortness(words, end - 1, end), end - 1)]
        start = end - 2
        while start >= 0 and room.fits(start, end):
            choices.append((best[start][0] + ending + _shortness(words, start, end), start))
            start -= 1
        best.append(min(choices, key=lambda choice: choice[0]))
    places = []
    end = len(words)
    while end:
        places.append((best[end][1], end))
        end = best[end][1]
    return places[::-1]


class _Room:
    """Which words fit into one cue, told from sums made once."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = words
        self._columns = [0, *accumulate(width(word.text) for word in words)]  # up to each word, spaces between words included
        self._leading = [len(word.text) - len(word.text.lstrip()) for word in words]
        pauses = [0, *(i for i, (a, b) in enumerate(pairwise(words), 1) if b.start - a.end > LONG_PAUSE_S)]
        self._since = [pauses[bisect_right(pauses, i) - 1] for i in range(len(words))]  # the last long pause before each word

    def fits(self, start: int, end: int) -> bool:
        """Whether the words from `start` to before `end` fit, without a long pause among them."""
        if self._words[end - 1].end - self._words[start].start > LONGEST_S or self._since[end - 1] > start:
            return False
        if self._wide(start, end) <= LINE:
            return True
        full = bisect_right(self._columns, self._columns[start] + self._leading[start] + LINE, start, end) - 1
        return start < full < end and self._wide(full, end) <= LINE

    def _wide(self, start: int, end: int) -> int:
        return self._columns[end] - self._columns[start] - self._leading[start]


def _ending(words: Sequence[Word], end: int) -> float:
    """The cost of a cue that ends before word number `end`."""
    last = words[end - 1].text.rstrip("\"'”’)»」』 ")
    if end == len(words) or last.endswith(tuple(_SENTENCE_END)):
        return _AT_SENTENCE
    if words[end].start - words[end - 1].end >= PAUSE_S:
        return _AT_PAUSE
    return _AT_CLAUSE if last.endswith(tuple(_CLAUSE_END)) else _NOWHERE


def _shortness(words: Sequence[Word], start: int, end: int) -> float:
    """The cost of a cue that cannot stay for SHORTEST_S before the next one comes."""
    until = words[end].start if end < len(words) else words[end - 1].end + SHORTEST_S
    return _TOO_SHORT if until - words[start].start < SHORTEST_S else 0.0


def _lines(words: Sequence[Word]) -> tuple[str, ...]:
    """The words as one or two lines, as even as they can be, the first one rather ending at a clause; none where they do not fit."""
    whole = _text(words)
    if width(whole) <= LINE:
        return (whole,)
    choices = []
    for at in range(1, len(words)):
        upper, lower = _text(words[:at]), _text(words[at:])
        if max(width(upper), width(lower)) <= LINE:
            uneven = abs(width(upper) - width(lower))
            choices.append((uneven - (12 if upper.endswith((*_SENTENCE_END, *_CLAUSE_END)) else 0), (upper, lower)))
    return min(choices)[1] if choices else ()


def _text(words: Sequence[Word]) -> str:
    """Words as one line, without what would end a cue."""
    return re.sub("-{2,}>", "->", " ".join("".join(word.text for word in words).split()))


def _timed(groups: Sequence[Sequence[Word]], duration: float, channel: int | None) -> list[Cue]:
    """Cues for groups of words: short ones stay as long as they may, long ones no longer than they should."""
    found: list[Cue] = []
    for index, words in enumerate(groups):
        start, end = words[0].start, min(words[-1].end, words[0].start + LONGEST_S)
        until = groups[index + 1][0].start if index + 1 < len(groups) else max(duration, end)
        end = min(max(end, start + SHORTEST_S), max(until, start))
        if end - start < SHORTEST_S:
            start = max(end - SHORTEST_S, found[-1].end if found else 0.0)
        found.append(Cue(start, end, _lines(words) or (_text(words),), channel))
    return found
