"""Intervals of speech and text beside slow twins, which look at every cell of a quarter of a second."""

import random
from itertools import pairwise

import pytest

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE
from handler.transcription.coverage import (
    MIN_GAP_S,
    MIN_UTTERANCE_S,
    WORD_MARGIN_S,
    Interval,
    covered_intervals,
    describe_interval,
    find_gaps,
    merge_intervals,
    plausible_span,
    significant_gaps,
    spans_in_seconds,
    subtract_intervals,
    total_length,
)

CELL_S = 0.25  # a power of two, so that sums are exact
SEEDS = range(60)


def cells(intervals: list[Interval]) -> set[int]:
    """Return the index of every cell that lies in an interval."""
    return {cell for start, end in intervals for cell in range(round(start / CELL_S), round(end / CELL_S))}


def runs(indices: set[int]) -> list[Interval]:
    """Return the intervals that the cells form, with neighbouring cells as one interval."""
    starts = sorted(index for index in indices if index - 1 not in indices)
    ends = sorted(index + 1 for index in indices if index + 1 not in indices)
    return [(start * CELL_S, end * CELL_S) for start, end in zip(starts, ends, strict=True)]


def some_intervals(rng: random.Random, count: int, longest: int = 12) -> list[Interval]:
    """Return unsorted intervals of up to `longest` cells within 40 s, some of them empty or overlapping."""
    starts = [rng.randrange(160) for _ in range(count)]
    return [(start * CELL_S, (start + rng.randint(0, longest)) * CELL_S) for start in starts]


def some_words(rng: random.Random, count: int) -> list[Segment]:
    """Return segments of short words, and segments without words."""
    return [
        Segment(start, end, " word", words=(Word(start, end, " word", 0.9),) if rng.random() < 0.7 else ())
        for start, end in some_intervals(rng, count, longest=4)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_merged_intervals_hold_the_same_cells_in_as_few_intervals_as_possible(seed: int) -> None:
    intervals = some_intervals(random.Random(seed), seed)
    merged = merge_intervals(intervals)
    assert merged == runs(cells(intervals))
    assert merge_intervals(merged) == merged
    assert merge_intervals(reversed(intervals)) == merged
    assert total_length(merged) == CELL_S * len(cells(intervals))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_remains_of_intervals_are_their_cells_outside_the_holes(seed: int) -> None:
    rng = random.Random(seed)
    intervals = merge_intervals(some_intervals(rng, rng.randint(0, 14)))
    holes = merge_intervals(some_intervals(rng, rng.randint(0, 20), longest=6))
    remaining = subtract_intervals(intervals, holes)
    assert remaining == runs(cells(intervals) - cells(holes))
    assert all(first[1] <= second[0] for first, second in pairwise(remaining))
    both = cells(intervals) & cells(holes)
    assert total_length(remaining) == total_length(intervals) - CELL_S * len(both)


@pytest.mark.parametrize("seed", range(20))
def test_intervals_that_touch_stay_apart_when_holes_are_cut_out(seed: int) -> None:
    rng = random.Random(seed)
    bounds = sorted(rng.sample(range(80), 8))
    intervals = [(start * CELL_S, end * CELL_S) for start, end in pairwise(bounds)]
    holes = merge_intervals(some_intervals(rng, 6, longest=8))
    expected = [run for interval in intervals for run in runs(cells([interval]) - cells(holes))]
    assert subtract_intervals(intervals, holes) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_covered_speech_is_near_a_word_and_gaps_are_the_long_rest(seed: int) -> None:
    rng = random.Random(seed)
    segments = some_words(rng, rng.randint(0, 25))
    near = [(segment.start - WORD_MARGIN_S, segment.end + WORD_MARGIN_S) for segment in segments]
    assert covered_intervals(segments) == runs(cells(near))
    utterances = some_intervals(rng, rng.randint(0, 10))
    speech = [(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in utterances]
    assert spans_in_seconds(speech) == runs(cells(utterances))
    expected = []
    for utterance in runs(cells(utterances)):
        for start, end in runs(cells([utterance]) - cells(near)):
            shortest = MIN_UTTERANCE_S if (start, end) == utterance else MIN_GAP_S
            expected += [(start, end)] if end - start >= shortest else []
    assert find_gaps(speech, segments) == expected


@pytest.mark.parametrize(
    ("uncovered", "is_reported"),
    [
        ((0.0, 0.25), False),  # the whole of an utterance, and shorter than MIN_UTTERANCE_S
        ((2.0, 2.5), True),  # the whole of another one
        ((10.0, 10.5), False),  # a part
        ((10.0, 11.0), True),  # a part of exactly MIN_GAP_S
        ((18.0, 20.0), True),
    ],
)
def test_a_part_of_an_utterance_must_be_longer_than_a_whole_one_to_be_a_gap(
    uncovered: Interval, is_reported: bool
) -> None:
    utterances = [(0.0, 0.25), (2.0, 2.5), (10.0, 20.0)]
    assert significant_gaps([uncovered], utterances) == [uncovered] * is_reported


@pytest.mark.parametrize(
    ("text", "end", "plausible_end"),
    [(" a", 1.5, 1.5), (" a", 9.0, 1.72), (" seven77", 9.0, 2.44), ("  seven77 ", 9.0, 2.44), (" seven77", 2.4, 2.4)],
)
def test_a_word_may_last_the_longer_the_more_letters_it_has(text: str, end: float, plausible_end: float) -> None:
    assert plausible_span(Word(1.0, end, text, 0.9)) == pytest.approx((1.0, plausible_end))


@pytest.mark.parametrize(("channel", "suffix"), [(None, ""), (0, " of channel 0"), (1, " of channel 1")])
def test_an_interval_is_described_with_its_channel_the_first_one_too(channel: int | None, suffix: str) -> None:
    assert describe_interval(0.04, 12.25001, channel) == f"between 0.0 and 12.3 s{suffix}"
