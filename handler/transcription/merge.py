"""The windows of a request to one timeline with its evidence: pure functions. Knows no engine and no door."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from handler.schema.transcript import Coverage, Gap, Segment, Word
from handler.schema.window import SAMPLE_RATE
from handler.transcription.coverage import between, covered_by, in_seconds, length, without, worth_telling
from handler.transcription.word_edits import keep_words, plain, words_of


@dataclass(frozen=True, slots=True)
class Passage:
    """What was read from one window, without its samples."""

    start: int  # samples
    end: int
    speech: tuple[tuple[int, int], ...]  # samples
    channel: int | None
    segments: list[Segment]


def merge_windows(passages: Sequence[Passage]) -> list[Segment]:
    """The segments of all passages in order of time; where two of a channel heard the same, it is said once."""
    channels: dict[int | None, list[Passage]] = defaultdict(list)
    for passage in sorted(passages, key=lambda passage: passage.start):
        channels[passage.channel].append(passage)
    found: list[Segment] = []
    for mine in channels.values():
        told: list[Segment] = []
        end = 0
        for passage in mine:
            overlap = (passage.start / SAMPLE_RATE, end / SAMPLE_RATE)
            first = len(told)
            while first and told[first - 1].end > overlap[0]:
                first -= 1
            told[first:] = (
                join_overlap(told[first:], passage.segments, overlap) if overlap[0] < overlap[1] else [*told[first:], *passage.segments]
            )
            end = max(end, passage.end)
        found += told
    return sorted(found, key=lambda segment: (segment.start, segment.channel or 0))


def measure_coverage(passages: Sequence[Passage], segments: Sequence[Segment]) -> Coverage:
    """How much of the speech in passages is covered by the words of segments."""
    speech_s = covered_s = 0.0
    missed: list[Gap] = []
    for channel in sorted({passage.channel for passage in passages}, key=lambda channel: channel or 0):
        utterances = in_seconds(span for passage in passages if passage.channel == channel for span in passage.speech)
        left = without(utterances, covered_by(segment for segment in segments if segment.channel == channel))
        speech_s += length(utterances)
        covered_s += length(utterances) - length(left)
        missed += [Gap(start, end, channel) for start, end in worth_telling(left, utterances)]
    return Coverage(speech_s, covered_s, tuple(sorted(missed, key=lambda gap: gap.start)))


def gap_warnings(coverage: Coverage) -> list[str]:
    """What is missing, in words."""
    return [f"speech {between(gap.start, gap.end, gap.channel)} has no text" for gap in coverage.gaps]


def most_spoken(segments: Sequence[Segment]) -> str | None:
    """The language that takes most of the time."""
    seconds: dict[str, float] = defaultdict(float)
    for segment in segments:
        if segment.language is not None:
            seconds[segment.language] += segment.end - segment.start
    return max(seconds, key=seconds.__getitem__) if seconds else None


SAME_TIME_S = 0.7  # two windows that hear one word time it no further apart


def join_overlap(left: Sequence[Segment], right: Sequence[Segment], overlap: tuple[float, float]) -> list[Segment]:
    """The segments of two windows that both heard `overlap`, seconds: in it, one takes over from the other where they agree.

    They agree on the longest run of equal words said at about the same time; where there is none, the middle of the overlap
    divides them. What only one of them heard stays.
    """
    start, end = overlap
    before = [word for word in words_of(left) if word.end > start]
    after = [word for word in words_of(right) if word.start < end]
    if not before or not after:
        return [*left, *right]
    size, at, other = _agreement(before, after)
    if size:
        gone = {id(word) for word in (*before[at + size // 2 :], *after[: other + size // 2])}
        return keep_words([*left, *right], lambda word: id(word) not in gone)
    middle = (start + end) / 2
    return [*keep_words(left, lambda w: w.start + w.end < 2 * middle), *keep_words(right, lambda w: w.start + w.end >= 2 * middle)]


def _agreement(before: Sequence[Word], after: Sequence[Word]) -> tuple[int, int, int]:
    """The longest run of equal words at about the same times: how many, and where it begins in the one and in the other."""
    best = (0, 0, 0)
    lengths: dict[tuple[int, int], int] = {}  # of the run that ends with this pair
    for i, first in enumerate(before):
        for j, second in enumerate(after):
            if plain(first) and plain(first) == plain(second) and abs(first.start - second.start) <= SAME_TIME_S:
                lengths[i, j] = size = lengths.get((i - 1, j - 1), 0) + 1
                best = max(best, (size, i + 1 - size, j + 1 - size), key=lambda run: run[0])
    return best
