"""Decoded tokens to segments, on token ids made here."""

import pytest

from handler.whisper.timestamps import TokenSegment, before_text_token, complete_segments, split_segments
from handler.whisper.tokenizer import Specials

SPECIALS = Specials.of_vocab(51_864)
WINDOW_S = 30.0


def timestamp(seconds: float) -> int:
    return SPECIALS.timestamp_begin + round(seconds * 50)


def bounds(segments: list[TokenSegment]) -> list[tuple[float, float, list[int]]]:
    return [(segment.start_s, segment.end_s, segment.ids) for segment in segments]


def test_text_between_two_timestamps_is_a_segment() -> None:
    tokens = [timestamp(0), 7, 8, timestamp(2), timestamp(2.5), 9, timestamp(4), SPECIALS.eot]
    segments, seek_s = split_segments(tokens, WINDOW_S, SPECIALS)
    assert bounds(segments) == [(0.0, 2.0, [7, 8]), (2.5, 4.0, [9])]
    assert [segment.offset for segment in segments] == [1, 5]
    assert not any(segment.is_open for segment in segments)
    assert seek_s is None


def test_a_start_without_text_says_where_to_go_on() -> None:
    tokens = [timestamp(0), 7, timestamp(20), timestamp(20), SPECIALS.eot]
    assert split_segments(tokens, WINDOW_S, SPECIALS)[1] == pytest.approx(20.0)


def test_a_start_at_the_end_of_the_window_leaves_nothing_to_go_on_with() -> None:
    tokens = [timestamp(0), 7, timestamp(20), timestamp(20), SPECIALS.eot]
    assert split_segments(tokens, 20.0, SPECIALS)[1] is None


def test_text_without_an_end_is_open_up_to_the_end_of_the_window() -> None:
    segments, seek_s = split_segments([timestamp(1), 7, 8, SPECIALS.eot], WINDOW_S, SPECIALS)
    assert bounds(segments) == [(1.0, WINDOW_S, [7, 8])]
    assert segments[0].is_open
    assert segments[0].offset == 1
    assert seek_s is None


def test_a_timestamp_after_the_end_of_a_short_window_is_its_end() -> None:
    segments, _ = split_segments([timestamp(0), 7, timestamp(9), SPECIALS.eot], 5.0, SPECIALS)
    assert bounds(segments) == [(0.0, 5.0, [7])]


def test_no_text_is_no_segment() -> None:
    assert split_segments([timestamp(0), timestamp(0), SPECIALS.eot], WINDOW_S, SPECIALS) == ([], None)
    assert split_segments([], WINDOW_S, SPECIALS) == ([], None)


def test_of_a_text_that_broke_off_its_last_open_segment_is_decoded_again() -> None:
    complete = TokenSegment(0.0, 2.0, [7])
    unfinished = TokenSegment(2.0, 30.0, [8], is_open=True)
    assert complete_segments([]) == ([], None)
    assert complete_segments([complete]) == ([complete], 2.0)
    assert complete_segments([complete, unfinished]) == ([complete], 2.0)
    assert complete_segments([unfinished]) == ([unfinished], None)


def test_tokens_are_cut_before_a_text_token_by_its_number() -> None:
    tokens = [timestamp(0), 7, timestamp(1), timestamp(1), 8, 9, SPECIALS.eot]
    assert before_text_token(tokens, 0, SPECIALS) == tokens[:1]
    assert before_text_token(tokens, 1, SPECIALS) == tokens[:4]
    assert before_text_token(tokens, 2, SPECIALS) == tokens[:5]
    assert before_text_token(tokens, 3, SPECIALS) == tokens
