"""Merge the windows of a request into one timeline, and measure which speech has text.

Pure functions. Knows no engine.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from handler.schema.transcript import Coverage, Gap, Segment, Word
from handler.schema.window import SAMPLE_RATE
from handler.transcription.coverage import (
    covered_intervals,
    describe_interval,
    significant_gaps,
    spans_in_seconds,
    subtract_intervals,
    total_length,
)
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.word_edits import all_words, keep_words, normalize_word

SAME_WORD_S = 0.7  # largest difference between the start times that two windows report for one word


def merge_windows(windows: Sequence[DecodedWindow]) -> list[Segment]:
    """Return the segments of all windows in chronological order.

    If windows of a channel overlap, the text of the overlap is included only once.
    """
    channels: dict[int | None, list[DecodedWindow]] = defaultdict(list)
    for window in sorted(windows, key=lambda window: window.start):
        channels[window.channel].append(window)
    merged = list(chain.from_iterable(_merge_channel(windows) for windows in channels.values()))
    return sorted(merged, key=lambda segment: (segment.start, segment.channel or 0))


def _merge_channel(windows: Sequence[DecodedWindow]) -> list[Segment]:
    """Merge the windows of one channel, which must be sorted by start, and return the segments."""
    segments: list[Segment] = []
    end = 0
    for window in windows:
        overlap = (window.start / SAMPLE_RATE, end / SAMPLE_RATE)
        if overlap[0] < overlap[1]:
            first = len(segments)  # index of the first segment that reaches into the overlap
            while first and segments[first - 1].end > overlap[0]:
                first -= 1
            segments[first:] = join_overlap(segments[first:], window.segments, overlap)
        else:
            segments += window.segments
        end = max(end, window.end)
    return segments


def measure_coverage(windows: Sequence[DecodedWindow], segments: Sequence[Segment]) -> Coverage:
    """Measure how much of the detected speech in the windows is covered by words of the segments."""
    speech_s = covered_s = 0.0
    gaps: list[Gap] = []
    for channel in sorted({window.channel for window in windows}, key=lambda channel: channel or 0):
        speech = chain.from_iterable(window.speech for window in windows if window.channel == channel)
        utterances = spans_in_seconds(speech)
        covered = covered_intervals(segment for segment in segments if segment.channel == channel)
        uncovered = subtract_intervals(utterances, covered)
        speech_s += total_length(utterances)
        covered_s += total_length(utterances) - total_length(uncovered)
        gaps += [Gap(start, end, channel) for start, end in significant_gaps(uncovered, utterances)]
    return Coverage(speech_s, covered_s, tuple(sorted(gaps, key=lambda gap: gap.start)))


def gap_warnings(coverage: Coverage) -> list[str]:
    """Return a warning for each stretch of speech without text."""
    return [f"speech {describe_interval(gap.start, gap.end, gap.channel)} has no text" for gap in coverage.gaps]


def dominant_language(segments: Sequence[Segment]) -> str | None:
    """Return the language whose segments have the largest total duration, or None if no segment has a language."""
    seconds: dict[str, float] = defaultdict(float)
    for segment in segments:
        if segment.language is not None:
            seconds[segment.language] += segment.end - segment.start
    return max(seconds, key=seconds.__getitem__) if seconds else None


def join_overlap(first: Sequence[Segment], second: Sequence[Segment], overlap: tuple[float, float]) -> list[Segment]:
    """Join the segments of two windows that overlap, and return them without duplicate text.

    `overlap` is the start and end of the shared audio in seconds. The result follows the first window up to the middle
    of the longest run of equal words that both windows contain at about the same times, and the second window from
    there on. If there is no such run, the switch is in the middle of the overlap. If one window has no words in the
    overlap, all segments are kept.
    """
    start, end = overlap
    first_words = [word for word in all_words(first) if word.end > start]
    second_words = [word for word in all_words(second) if word.start < end]
    if not first_words or not second_words:
        return [*first, *second]
    size, first_index, second_index = _longest_common_run(first_words, second_words)
    if size:
        surplus = (*first_words[first_index + size // 2 :], *second_words[: second_index + size // 2])
        surplus_ids = {id(word) for word in surplus}
        return keep_words([*first, *second], lambda word: id(word) not in surplus_ids)
    earlier = keep_words(first, lambda word: word.start + word.end < start + end)
    later = keep_words(second, lambda word: word.start + word.end >= start + end)
    return [*earlier, *later]


def _longest_common_run(first: Sequence[Word], second: Sequence[Word]) -> tuple[int, int, int]:
    """Find the longest run of equal words that both sequences contain at about the same times.

    Return the number of words in the run, the run's index in `first`, and its index in `second`. If there is no such
    run, all three are 0.
    """
    longest = (0, 0, 0)
    lengths: dict[tuple[int, int], int] = {}  # length of the common run that ends with the words at these two indices
    for i, first_word in enumerate(first):
        for j, second_word in enumerate(second):
            if _is_same_word(first_word, second_word):
                lengths[i, j] = size = lengths.get((i - 1, j - 1), 0) + 1
                longest = max(longest, (size, i + 1 - size, j + 1 - size), key=lambda run: run[0])
    return longest


def _is_same_word(first: Word, second: Word) -> bool:
    """Return whether two words have the same letters and digits and start at about the same time."""
    spelling = normalize_word(first)
    if not spelling or spelling != normalize_word(second):
        return False
    return abs(first.start - second.start) <= SAME_WORD_S
