"""Replace stretches of the text of segments, and keep their words in step. Pure functions. Knows no option."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from handler.schema.transcript import Segment, Word


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of the joined text of some segments, and what replaces it."""

    start: int  # characters
    end: int
    text: str


@dataclass(slots=True)
class _Group:
    """Consecutive words that edits make one."""

    first: int  # numbers of words
    last: int
    edits: list[Edit]


def apply_edits(segments: Sequence[Segment], edits: Sequence[Edit], *, keeps_tokens: bool) -> list[Segment]:
    """Return the segments after edits of their joined text, which are in order and do not overlap.

    The words that an edit touches become one word, which lasts as long as all of them. If they are of several segments,
    it belongs to the first, and a segment without any other word is dropped. A segment that has no words counts as one.
    Unless `keeps_tokens`, changed segments and words have no tokens, because tokens spell what has been replaced.
    """
    words = [
        (number, word) for number, segment in enumerate(segments) for word in segment.words or (_as_word(segment),)
    ]
    starts = [0, *accumulate(len(word.text) for _, word in words)]
    text = "".join(word.text for _, word in words)
    groups = {group.first: group for group in _groups(edits, starts)}
    kept: list[list[Word]] = [[] for _ in segments]
    changed: set[int] = set()
    position = 0
    while position < len(words):
        number, word = words[position]
        if (group := groups.get(position)) is not None:
            position = group.last
            changed.update(range(number, words[position][0] + 1))
            joined = [each for _, each in words[group.first : group.last + 1]]
            tokens = tuple(token for each in joined for token in each.tokens) if keeps_tokens else ()
            edited = _edited(text, starts[group.first], starts[group.last + 1], group.edits)
            word = replace(word, text=edited, end=joined[-1].end, tokens=tokens)
        kept[number].append(word)
        position += 1
    return [
        _with_words(segment, kept[number], keeps_tokens=keeps_tokens) if number in changed else segment
        for number, segment in enumerate(segments)
        if kept[number]
    ]


def text_of_words(segment: Segment) -> str:
    """Return the text of a segment as its words have it, or as it stands if it has none."""
    return "".join(word.text for word in segment.words) or segment.text


def _as_word(segment: Segment) -> Word:
    return Word(segment.start, segment.end, segment.text, 0.0)


def _with_words(segment: Segment, words: Sequence[Word], *, keeps_tokens: bool) -> Segment:
    """Return a segment with the words that it has after edits."""
    begins_later = bool(segment.words) and words[0].start > segment.words[0].start
    return replace(
        segment,
        start=words[0].start if begins_later else segment.start,
        end=max(segment.end, words[-1].end),
        text="".join(word.text for word in words),
        tokens=segment.tokens if keeps_tokens else (),
        words=tuple(words) if segment.words else (),
    )


def _groups(edits: Sequence[Edit], starts: Sequence[int]) -> list[_Group]:
    """Return which words become one. `starts` has where each begins in the joined text, and where the last one ends."""
    groups: list[_Group] = []
    for edit in edits:
        first, last = bisect_right(starts, edit.start) - 1, bisect_right(starts, edit.end - 1) - 1
        if groups and groups[-1].last >= first:
            groups[-1].last = last
            groups[-1].edits.append(edit)
        else:
            groups.append(_Group(first, last, [edit]))
    return groups


def _edited(text: str, start: int, end: int, edits: Sequence[Edit]) -> str:
    """Return the part of a text from `start` to `end` after edits that lie in it."""
    parts: list[str] = []
    for edit in edits:
        parts += [text[start : edit.start], edit.text]
        start = edit.end
    return "".join([*parts, text[start:end]])
