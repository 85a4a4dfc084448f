"""Coverage of speech by text, on generated spans and words."""

import pytest

from handler.schema.transcript import Gap, Segment, Word
from handler.schema.window import SAMPLE_RATE
from handler.transcription.coverage import find_gaps, merge_intervals, subtract_intervals
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import gap_warnings, measure_coverage, merge_windows
from tests.support.segments import make_segment, text_of


def samples(*spans: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    return tuple((round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in spans)


def decoded(
    start: float,
    end: float,
    segments: list[Segment],
    speech: tuple[tuple[int, int], ...] = (),
    channel: int | None = None,
) -> DecodedWindow:
    return DecodedWindow(*samples((start, end))[0], speech, channel, segments)


@pytest.mark.parametrize(
    ("intervals", "holes", "remaining"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(2, 3), (5, 6)], [(0, 2), (3, 5), (6, 10)]),
        ([(0, 2), (4, 6)], [(1, 5)], [(0, 1), (5, 6)]),
        ([(0, 2), (4, 6)], [(-1, 7)], []),
        ([(0, 1), (1.5, 6)], [(0, 1), (5, 9)], [(1.5, 5)]),
    ],
)
def test_holes_are_subtracted_from_intervals(
    intervals: list[tuple[float, float]], holes: list[tuple[float, float]], remaining: list[tuple[float, float]]
) -> None:
    assert subtract_intervals(intervals, holes) == remaining


def test_intervals_that_touch_are_one() -> None:
    assert merge_intervals([(3, 4), (0, 1), (1, 2), (3.5, 3.7), (5, 5)]) == [(0, 2), (3, 4)]


def test_a_hole_in_the_middle_of_a_segment_is_a_gap() -> None:
    words = make_segment("a b c d e f g h i j k l m n o p q r s t").words
    holed = Segment(0, 10, "", words=(*words[:6], *words[14:]))
    assert find_gaps(samples((0, 10)), [holed]) == [pytest.approx((3.5, 6.5))]
    assert find_gaps(samples((0, 10)), [Segment(0, 10, "", words=words)]) == []


def test_a_word_that_is_stretched_over_a_hole_does_not_cover_it() -> None:
    stretched = Segment(0, 10, "", words=(Word(0, 9.5, " before", 0.9), *make_segment("after", start=9.5).words))
    assert find_gaps(samples((0, 10)), [stretched]) == [pytest.approx((1.82, 9.0))]


def test_a_short_utterance_with_no_text_is_a_gap_and_a_noise_is_none() -> None:
    segments = [make_segment("a b c d")]
    assert find_gaps(samples((0, 2), (5, 5.7)), segments) == [(5.0, 5.7)]
    assert find_gaps(samples((0, 2), (5, 5.2)), segments) == []


def test_coverage_is_counted_by_channel() -> None:
    windows = [
        decoded(0, 4, [], samples((0, 4)), channel=0),
        decoded(0, 4, [make_segment("a b c d e f g h")], samples((0, 4)), channel=1),
    ]
    coverage = measure_coverage(windows, [Segment(0, 4, "", words=make_segment("a b c d e f g h").words, channel=1)])
    assert (coverage.speech_s, coverage.covered_s, coverage.gaps) == (8.0, 4.0, (Gap(0.0, 4.0, 0),))
    assert gap_warnings(coverage) == ["speech between 0.0 and 4.0 s of channel 0 has no text"]


def test_windows_come_in_order_of_time_whatever_order_they_were_decoded_in() -> None:
    right, left = decoded(10, 20, [make_segment("later", start=12)]), decoded(0, 10, [make_segment("sooner", start=3)])
    assert text_of(merge_windows([right, left])) == "sooner later"


def test_words_that_two_windows_share_come_once() -> None:
    left = decoded(0, 4.5, [make_segment("we went down to the river and then back")])
    right = decoded(2, 8, [make_segment("the river and then back home again", start=2.1)])
    assert text_of(merge_windows([left, right])) == "we went down to the river and then back home again"
