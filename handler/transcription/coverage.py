"""Compare detected speech with the times of words to find speech without text.

Pure functions. Knows no model and no file.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE

MAX_WORD_S = 0.6  # longest plausible duration of a word, not counting MAX_LETTER_S per character
MAX_LETTER_S = 0.12  # longer words are clipped because alignment stretches the words next to a missing one
WORD_MARGIN_S = 0.5  # speech this close to a word counts as covered because word times are not exact
MIN_GAP_S = 1.0  # a shorter part of an utterance is breath, laughter, or the margin of voice activity detection
MIN_UTTERANCE_S = 0.4  # an utterance without any text is a mere noise if it is shorter than this

Interval = tuple[float, float]  # start and end, seconds


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the intervals sorted by start, with touching or overlapping ones merged and empty ones dropped."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def subtract_intervals(intervals: Sequence[Interval], holes: Sequence[Interval]) -> list[Interval]:
    """Return the parts of the intervals that lie outside all holes.

    Both `intervals` and `holes` must be sorted and free of overlaps.
    """
    remaining: list[Interval] = []
    first = 0  # index of the first hole that may reach into this interval or a later one
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
    """Return the sum of the lengths of the intervals, in seconds."""
    return sum(end - start for start, end in intervals)


def covered_intervals(segments: Iterable[Segment]) -> list[Interval]:
    """Return the intervals, in seconds, in which the text of the segments was spoken.

    Each word is widened by WORD_MARGIN_S on either side, and a segment without words is widened as a whole. Overlapping
    intervals are merged.
    """
    spoken = chain.from_iterable(_spoken_intervals(segment) for segment in segments)
    return merge_intervals((start - WORD_MARGIN_S, end + WORD_MARGIN_S) for start, end in spoken)


def _spoken_intervals(segment: Segment) -> list[Interval]:
    """Return the interval of each word of a segment, or the interval of the segment if it has no words."""
    if segment.words:
        return [plausible_span(word) for word in segment.words]
    return [(segment.start, segment.end)]


def plausible_span(word: Word) -> Interval:
    """Return a word's start and end in seconds, with the end moved earlier if the word lasts implausibly long."""
    return word.start, min(word.end, word.start + MAX_WORD_S + MAX_LETTER_S * len(word.text.strip()))


def find_gaps(speech: Sequence[tuple[int, int]], segments: Iterable[Segment]) -> list[Interval]:
    """Return the stretches of speech that have no text, in seconds.

    `speech` holds the start and end of each detected utterance, in samples. Stretches shorter than MIN_GAP_S are left
    out. For an utterance that has no text at all, the limit is MIN_UTTERANCE_S instead.
    """
    utterances = spans_in_seconds(speech)
    return significant_gaps(subtract_intervals(utterances, covered_intervals(segments)), utterances)


def spans_in_seconds(speech: Iterable[tuple[int, int]]) -> list[Interval]:
    """Convert spans of speech from samples to seconds, and return them sorted, with overlapping spans merged."""
    return merge_intervals((start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in speech)


def significant_gaps(uncovered: Iterable[Interval], utterances: Sequence[Interval]) -> list[Interval]:
    """Return those stretches of speech without text (`uncovered`) that are long enough to be worth reporting.

    A stretch that equals one of the detected `utterances` must last at least MIN_UTTERANCE_S. A stretch that is only a
    part of an utterance must last at least MIN_GAP_S.
    """
    complete = set(utterances)  # an uncovered stretch that equals an utterance is one without any text

    def is_significant(interval: Interval) -> bool:
        min_length = MIN_UTTERANCE_S if interval in complete else MIN_GAP_S
        return interval[1] - interval[0] >= min_length

    return [interval for interval in uncovered if is_significant(interval)]


def describe_interval(start: float, end: float, channel: int | None) -> str:
    """Describe an interval in seconds for a warning. The channel is mentioned unless it is None."""
    return f"between {start:.1f} and {end:.1f} s" + ("" if channel is None else f" of channel {channel}")
