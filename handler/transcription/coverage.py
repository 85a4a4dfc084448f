"""Measure which speech has text, by the times of its words. Pure functions. Knows no model and no file."""

from collections.abc import Iterable, Sequence
from itertools import chain

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE

MAX_WORD_S = 0.6  # a word lasts no longer than this …
MAX_LETTER_S = 0.12  # … and this much per letter: alignment stretches the words next to a missing one
WORD_MARGIN_S = 0.5  # speech this close to a word counts as covered: word times are not exact
MIN_GAP_S = 1.0  # a shorter stretch without text is breath, laughter, or the margin of voice activity detection
MIN_UTTERANCE_S = 0.4  # a shorter utterance that has no text at all is a noise

Interval = tuple[float, float]  # start and end, seconds


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the intervals in order, those that touch or overlap merged into one."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def subtract_intervals(intervals: Sequence[Interval], holes: Sequence[Interval]) -> list[Interval]:
    """Return the parts of the intervals outside of the holes; both must be ordered and disjoint."""
    remaining: list[Interval] = []
    first = 0  # no hole before it reaches into this interval or a later one
    for start, end in intervals:
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        index = first
        while index < len(holes) and holes[index][0] < end:
            hole_start, hole_end = holes[index]
            if hole_start > start:
                remaining.append((start, hole_start))
            start = max(start, hole_end)
            index += 1
        if start < end:
            remaining.append((start, end))
    return remaining


def total_length(intervals: Iterable[Interval]) -> float:
    """Return the summed length of the intervals in seconds."""
    return sum(end - start for start, end in intervals)


def covered_intervals(segments: Iterable[Segment]) -> list[Interval]:
    """Return when the text of the segments was spoken, widened by WORD_MARGIN_S on both sides."""
    spoken = chain.from_iterable(_spoken_intervals(segment) for segment in segments)
    return merge_intervals((start - WORD_MARGIN_S, end + WORD_MARGIN_S) for start, end in spoken)


def _spoken_intervals(segment: Segment) -> list[Interval]:
    """Return the spans of a segment's words, or the span of the segment if it has no words."""
    if segment.words:
        return [plausible_span(word) for word in segment.words]
    return [(segment.start, segment.end)]


def plausible_span(word: Word) -> Interval:
    """Clip a word's duration to a plausible maximum, trimming its end."""
    return word.start, min(word.end, word.start + MAX_WORD_S + MAX_LETTER_S * len(word.text.strip()))


def find_gaps(speech: Sequence[tuple[int, int]], segments: Iterable[Segment]) -> list[Interval]:
    """Return speech without text, in seconds; `speech` is in samples.

    A gap is a long stretch, or a shorter utterance that has no text at all.
    """
    utterances = spans_in_seconds(speech)
    return significant_gaps(subtract_intervals(utterances, covered_intervals(segments)), utterances)


def spans_in_seconds(speech: Iterable[tuple[int, int]]) -> list[Interval]:
    """Convert spans of speech from samples to ordered, disjoint intervals in seconds."""
    return merge_intervals((start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in speech)


def significant_gaps(uncovered: Iterable[Interval], utterances: Sequence[Interval]) -> list[Interval]:
    """Return those uncovered stretches of utterances that are long enough to be worth reporting."""
    complete = set(utterances)  # an uncovered stretch in it is an utterance of which no word was written

    def is_significant(interval: Interval) -> bool:
        min_length = MIN_UTTERANCE_S if interval in complete else MIN_GAP_S
        return interval[1] - interval[0] >= min_length

    return [interval for interval in uncovered if is_significant(interval)]


def describe_interval(start: float, end: float, channel: int | None) -> str:
    """Return an interval in seconds as words for a warning."""
    return f"between {start:.1f} and {end:.1f} s" + ("" if channel is None else f" of channel {channel}")
