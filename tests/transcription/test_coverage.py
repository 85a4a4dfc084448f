"""What speech has text, on spans and words made here."""

import pytest

from handler.schema.transcript import Gap, Segment
from handler.schema.window import SAMPLE_RATE
from handler.transcription.coverage import gaps, united, without
from handler.transcription.merge import Passage, merge_windows, gap_warnings, measure_coverage
from tests.support.segments import spoken, text_of


def samples(*spans: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    return tuple((round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in spans)


def passage(
    start: float, end: float, segments: list[Segment], speech: tuple[tuple[int, int], ...] = (), channel: int | None = None
) -> Passage:
    return Passage(*samples((start, end))[0], speech, channel, segments)


@pytest.mark.parametrize(
    ("intervals", "taken", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(2, 3), (5, 6)], [(0, 2), (3, 5), (6, 10)]),
        ([(0, 2), (4, 6)], [(1, 5)], [(0, 1), (5, 6)]),
        ([(0, 2), (4, 6)], [(-1, 7)], []),
        ([(0, 1), (1.5, 6)], [(0, 1), (5, 9)], [(1.5, 5)]),
    ],
)
def test_intervals_without_others(
    intervals: list[tuple[float, float]], taken: list[tuple[float, float]], left: list[tuple[float, float]]
) -> None:
    assert without(intervals, taken) == left


def test_intervals_that_touch_are_one() -> None:
    assert united([(3, 4), (0, 1), (1, 2), (3.5, 3.7), (5, 5)]) == [(0, 2), (3, 4)]


def test_a_hole_in_the_middle_of_a_segment_is_a_gap() -> None:
    words = spoken("a b c d e f g h i j k l m n o p q r s t").words
    holed = Segment(0, 10, "", words=(*words[:6], *words[14:]))
    assert gaps(samples((0, 10)), [holed]) == [pytest.approx((3.5, 6.5))]
    assert gaps(samples((0, 10)), [Segment(0, 10, "", words=words)]) == []


def test_a_word_that_is_stretched_over_a_hole_does_not_cover_it() -> None:
    first, last = spoken("before").words[0], spoken("after", start=9.5).words[0]
    stretched = Segment(0, 10, "", words=(first.__class__(0, 9.5, " before", 0.9), last))
    assert gaps(samples((0, 10)), [stretched]) == [pytest.approx((1.82, 9.0))]


def test_a_short_utterance_with_no_text_is_a_gap_and_a_noise_is_none() -> None:
    text = [spoken("a b c d")]
    assert gaps(samples((0, 2), (5, 5.7)), text) == [(5.0, 5.7)]
    assert gaps(samples((0, 2), (5, 5.2)), text) == []


def test_coverage_is_counted_by_channel() -> None:
    passages = [
        passage(0, 4, [], samples((0, 4)), channel=0),
        passage(0, 4, [spoken("a b c d e f g h")], samples((0, 4)), channel=1),
    ]
    found = measure_coverage(passages, [Segment(0, 4, "", words=spoken("a b c d e f g h").words, channel=1)])
    assert (found.speech_s, found.covered_s, found.gaps) == (8.0, 4.0, (Gap(0.0, 4.0, 0),))
    assert gap_warnings(found) == ["speech between 0.0 and 4.0 s of channel 0 has no text"]


def test_passages_come_in_order_of_time_whatever_order_they_were_read_in() -> None:
    late, early = passage(10, 20, [spoken("later", start=12)]), passage(0, 10, [spoken("sooner", start=3)])
    assert text_of(merge_windows([late, early])) == "sooner later"


def test_what_two_passages_heard_is_said_once() -> None:
    left = passage(0, 4.5, [spoken("we went down to the river and then back")])
    right = passage(2, 8, [spoken("the river and then back home again", start=2.1)])
    assert text_of(merge_windows([left, right])) == "we went down to the river and then back home again"
