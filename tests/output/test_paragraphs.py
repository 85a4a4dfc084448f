"""Where paragraphs begin."""

from dataclasses import replace

from handler.output.paragraphs import LONG_CHARS, LONGEST_CHARS, paragraphs
from handler.schema.transcript import Segment
from tests.support.segments import make_segment


def texts(*segments: Segment) -> list[str]:
    return [paragraph.text for paragraph in paragraphs(segments)]


def test_a_pause_behind_a_sentence_begins_a_paragraph() -> None:
    first, close, far = make_segment("One.", 0.0), make_segment("Two.", 1.0), make_segment("Three.", 5.0)
    assert texts(first, close, far) == ["One. Two.", "Three."]
    assert texts(make_segment("One", 0.0), far) == ["One Three."]


def test_speakers_and_channels_have_paragraphs_of_their_own() -> None:
    first, second = make_segment("One", 0.0), make_segment("two", 0.6)
    assert texts(first, replace(second, speaker="B")) == ["One", "two"]
    assert texts(first, replace(second, channel=1)) == ["One", "two"]


def test_a_long_paragraph_ends_with_a_sentence_if_there_is_one() -> None:
    sentence = " ".join(["word"] * 20) + "."
    parts = texts(*(make_segment(sentence, 10.0 * index, word_s=0.4999) for index in range(12)))
    assert all(LONG_CHARS < len(part) < LONG_CHARS + 2 * len(sentence) for part in parts[:-1])
    endless = texts(*(make_segment(sentence[:-1], 10.0 * index) for index in range(40)))
    assert all(len(part) < LONGEST_CHARS + 2 * len(sentence) for part in endless)
    assert len(endless) > 1


def test_nothing_has_no_paragraph() -> None:
    assert texts() == []
