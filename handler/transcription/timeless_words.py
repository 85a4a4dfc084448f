"""Detect words that take no time, because the alignment finds no audio for them: nobody spoke them.

With a prompt and little audio, the model may write a phrase twice although it was said once. Pure functions. Knows no
model and no audio.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from handler.schema.transcript import Segment, Word
from handler.transcription.hallucination import MIN_SIMILARITY, is_speakable, similarity
from handler.transcription.word_edits import all_words, keep_words

MIN_TIMELESS_WORDS = 3  # fewer words in a row may have no length because word times are not exact
MIN_WORD_S = 0.01  # a shorter word has no length; word times are multiples of 0.02 s


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words from number `start` to number `end` (exclusive), and how much they resemble the words next to them."""

    start: int
    end: int
    similarity: float  # from 0 to 1
    follows_original: bool  # whether the words that they resemble come before them


def ends_timeless(segments: Sequence[Segment]) -> bool:
    """Return whether the text ends in words that take no time, not counting its very last word.

    The last word of a window gets whatever time is left.
    """
    words = all_words(segments)
    return any(end >= len(words) - 1 for _, end in _timeless_runs(words))


def remove_timeless_repeats(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments without words that take no time and repeat the words right before or right after them.

    If the words before them are repeated, the last of these gets the time of the last word that is removed.
    """
    words = all_words(segments)
    surplus_ids: set[int] = set()
    new_ends: dict[int, float] = {}  # seconds, by id of the word
    for start, end in _timeless_runs(words):
        phrase = max(_phrases(words, start, end), key=lambda candidate: candidate.similarity)
        if phrase.similarity >= MIN_SIMILARITY:
            surplus_ids |= {id(word) for word in words[phrase.start : phrase.end]}
            if phrase.follows_original:
                new_ends[id(words[phrase.start - 1])] = words[phrase.end - 1].end
    if not surplus_ids:
        return list(segments)
    kept = keep_words(segments, lambda word: id(word) not in surplus_ids)
    return [_with_ends(segment, new_ends) for segment in kept]


def _timeless_runs(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Yield the start and end (exclusive) of each run of words without a length.

    A run is left out if the time of the word after it would do for the run as well, which then may be misplaced only.
    """
    start = 0
    for index, word in enumerate([*words, None]):
        if word is not None and word.end - word.start < MIN_WORD_S:
            continue
        if index - start >= MIN_TIMELESS_WORDS and not is_speakable(words[start : index + 1]):
            yield start, index
        start = index + 1


def _phrases(words: Sequence[Word], start: int, end: int) -> Iterator[_Phrase]:
    """Yield what a run of words without a length may repeat: the words before or after it.

    The word after the run may be the last one of the repeat.
    """
    for stop in range(min(end + 1, len(words)), end - 1, -1):
        length = stop - start
        before, after = words[max(0, start - length) : start], words[stop : stop + length]
        yield _Phrase(start, stop, similarity(words[start:stop], before), follows_original=True)
        yield _Phrase(start, stop, similarity(words[start:stop], after), follows_original=False)


def _with_ends(segment: Segment, ends: Mapping[int, float]) -> Segment:
    """Return a segment in which each word whose id is in `ends` ends at the time that is given there, in seconds."""
    if not any(id(word) in ends for word in segment.words):
        return segment
    words = tuple(replace(word, end=ends.get(id(word), word.end)) for word in segment.words)
    return replace(segment, words=words, end=max(segment.end, words[-1].end))
