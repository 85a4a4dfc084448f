"""Cues that a player accepts and a person can read."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import srt
import webvtt

from handler.output.formats import render
from handler.output.subtitles import MAX_LINE_WIDTH, Cue, cues, width
from handler.schema.options import Options
from handler.schema.transcript import Coverage, Segment, Transcript, Word
from tests.support.espeak import STORY
from tests.support.segments import make_segment


def transcript(*segments: Segment) -> Transcript:
    return Transcript("", segments, "en", None, 700.0, "m", Options(), {}, Coverage(0, 0))


def talk(word_s: float) -> list[Segment]:
    """Return sentences one after the other, 0.3 s between them, with words of `word_s` seconds."""
    segments, start = list[Segment](), 0.0
    for sentence in STORY:
        segments.append(make_segment(sentence, start, word_s))
        start = segments[-1].end + 0.3
    return segments


def lines_of(story: Iterable[Cue]) -> list[str]:
    return list(chain.from_iterable(cue.lines for cue in story))


@pytest.mark.parametrize("word_s", [0.12, 0.3, 0.9])
def test_cues_keep_to_the_limits_and_lose_no_word(word_s: float) -> None:
    story = cues(talk(word_s), 700.0)
    for cue in story:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < width(line) <= MAX_LINE_WIDTH for line in cue.lines)
        assert 1.0 - 1e-6 <= cue.end - cue.start <= 7.0 + 1e-6
    assert all(first.end <= second.start + 1e-6 for first, second in pairwise(story))
    assert " ".join(lines_of(story)) == " ".join(STORY)


def test_a_cue_rather_ends_with_the_sentence_than_where_it_is_full() -> None:
    text = "This sentence is rather short. Then there is another one which is a good deal longer than that one was."
    first, second = cues([make_segment(text, word_s=0.3)], 60)
    assert first.lines == ("This sentence is rather short.",)
    assert " ".join(second.lines).startswith("Then there is another one")


def test_a_long_pause_ends_a_cue() -> None:
    first, second = cues([make_segment("Before the pause"), make_segment("after it.", start=4.0)], 60)
    assert first.lines == ("Before the pause",)
    assert second.lines == ("after it.",)
    assert first.end < 4.0


def test_a_single_short_word_stays_for_a_second() -> None:
    (cue,) = cues([make_segment("Yes.", start=5.0, word_s=0.2)], 60)
    assert (cue.start, cue.end) == (5.0, 6.0)


def test_wide_characters_take_two_columns_and_are_not_separated_by_spaces() -> None:
    text = "這是一個很長的句子沒有任何空格所以必須按照字來分行而且每行不能太長否則沒有人能讀完它們"
    words = tuple(Word(0.2 * i, 0.2 * (i + 1), character, 0.9) for i, character in enumerate(text))
    lines = lines_of(cues([Segment(0, 10, text, words=words)], 60))
    assert "".join(lines) == text
    assert all(width(line) <= MAX_LINE_WIDTH for line in lines)


def test_a_word_longer_than_a_line_is_split_and_a_segment_without_words_is_divided() -> None:
    text = " " + "x" * 100 + " and some more text that has no times of its own at all"
    lines = lines_of(cues([Segment(0, 6, text)], 60))
    assert all(width(line) <= MAX_LINE_WIDTH for line in lines)
    assert "".join(lines).replace(" ", "").startswith("x" * 100 + "and")


def test_srt_is_read_by_a_library_as_it_was_meant() -> None:
    text = render(transcript(*talk(0.3)), "srt")
    assert isinstance(text, str)
    parsed = list(srt.parse(text))
    assert srt.compose(parsed).strip() == text.strip()
    assert " ".join(cue.content.replace("\n", " ") for cue in parsed) == " ".join(STORY)


def test_vtt_is_read_by_a_library_as_it_was_meant() -> None:
    segments = [*talk(0.3)[:3], make_segment("Is 3 < 4 & 5 > 4 ---> yes?", start=90)]
    text = render(transcript(*segments), "vtt")
    assert isinstance(text, str)
    parsed = webvtt.from_string(text)
    assert parsed[0].start_in_seconds == 0
    assert parsed[-1].raw_text == "Is 3 &lt; 4 &amp; 5 &gt; 4 -&gt; yes?"
    assert " ".join(caption.text.replace("\n", " ") for caption in parsed[:-1]) == " ".join(STORY[:3])


def test_channels_are_cues_of_their_own_and_voices_in_vtt() -> None:
    first, second = make_segment("Hello, who is there?"), make_segment("It is me.", start=1.0)
    segments = [replace(first, channel=0), replace(second, channel=1)]
    assert [cue.channel for cue in cues(segments, 60)] == [0, 1]
    text = render(transcript(*segments), "vtt")
    assert isinstance(text, str)
    assert [caption.voice for caption in webvtt.from_string(text)] == ["channel 0", "channel 1"]
