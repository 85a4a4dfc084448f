"""Speakers of words and segments, from an activity that the test draws."""

from dataclasses import replace

import pytest

from handler.schema.transcript import Segment
from handler.transcription.speaker_names import name_speakers, speaker_name, speakers_of
from tests.schema.test_speakers import activity
from tests.support.segments import make_segment


def named(segment: Segment, *rows: str) -> list[tuple[str | None, str]]:
    return [(part.speaker, part.text.strip()) for part in name_speakers([segment], [activity(*rows)])]


def test_a_segment_is_parted_where_the_speaker_changes() -> None:
    segment = make_segment("yes I do no you do not", 0.0, word_s=0.5)
    first, second = name_speakers([segment], [activity("#" * 15 + "." * 25, "." * 15 + "#" * 25)])
    assert (first.text.strip(), first.speaker) == ("yes I do", "A")
    assert (second.text.strip(), second.speaker) == ("no you do not", "B")
    assert (first.start, first.end, second.start, second.end) == (0.0, 1.5, 1.5, 3.5)
    assert {word.speaker for word in second.words} == {"B"}
    assert first.text + second.text == segment.text


def test_a_segment_of_one_speaker_stays_whole() -> None:
    segment = replace(make_segment("all of it", 0.0), tokens=(1, 2, 3))
    (part,) = name_speakers([segment], [activity("#" * 40)])
    assert (part.text, part.tokens, part.speaker) == (segment.text, segment.tokens, "A")


def test_words_in_a_pause_belong_to_the_nearest_speaker() -> None:
    segment = make_segment("a b c d", 0.0, word_s=0.5)
    assert named(segment, "#####" + "." * 15, "." * 15 + "#####") == [("A", "a b"), ("B", "c d")]


def test_words_far_from_anybody_have_no_speaker() -> None:
    assert named(make_segment("a b", 50.0), "####") == [(None, "a b")]


def test_a_stray_word_stays_in_its_turn_unless_it_is_clearly_somebody_else() -> None:
    segment = make_segment("a b c", 0.0, word_s=0.4)
    assert named(segment, "####..######", "....##......") == [("A", "a b c")]
    assert named(segment, "####....####", "....####....") == [("A", "a"), ("B", "b"), ("A", "c")]


def test_overlap_is_told() -> None:
    segment = make_segment("a b", 0.0, word_s=1.0)
    (part,) = name_speakers([segment], [activity("#" * 20, "#" * 12 + "." * 8)])
    assert (part.speaker, part.overlapping) == ("A", ("B",))
    (part,) = name_speakers([segment], [activity("#" * 20, "##" + "." * 18)])
    assert part.overlapping == ()


def test_a_segment_without_words_has_the_speaker_who_is_heard_most() -> None:
    segment = Segment(0.0, 2.0, " all of it")
    assert named(segment, "#####" + "." * 15, "." * 5 + "#" * 15) == [("B", "all of it")]


def test_each_channel_has_speakers_of_its_own() -> None:
    segments = [replace(make_segment("a b", 0.0), channel=channel) for channel in (0, 1)]
    speakers = [activity("." * 40, "#" * 40), activity("#" * 40)]
    named = name_speakers(segments, speakers)
    assert [segment.speaker for segment in named] == ["B", "C"]
    assert speakers_of(named) == ("B", "C")


@pytest.mark.parametrize(("number", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA")])
def test_names_go_on_behind_z(number: int, name: str) -> None:
    assert speaker_name(number) == name
