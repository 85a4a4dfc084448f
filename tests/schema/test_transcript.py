"""The parts of a transcript: values that compare by content, and their text."""

from dataclasses import FrozenInstanceError, replace

import pytest

from handler.schema.options import Options
from handler.schema.transcript import Coverage, Progress, Segment, Transcript, Word, text_of
from tests.support.segments import make_segment


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["  "], ""),
        ([" One two.", " Three."], "One two. Three."),
        (["你好。", "再见。"], "你好。再见。"),  # no space where the model decoded none
        ([" un", "broken "], "unbroken"),
        ([" line\n", " and line "], "line\n and line"),
    ],
)
def test_the_text_of_segments_is_theirs_as_decoded_without_outer_spaces(texts: list[str], whole: str) -> None:
    assert text_of([Segment(number, number + 1, text) for number, text in enumerate(texts)]) == whole


def test_segments_and_words_with_the_same_content_are_equal() -> None:
    assert make_segment("a b") == make_segment("a b")
    assert make_segment("a b") != make_segment("a b", start=0.1)
    assert len({Word(0, 1, " a", 0.5), Word(0, 1, " a", 0.5), Word(0, 1, " b", 0.5)}) == 2
    assert replace(make_segment("a"), channel=0) != make_segment("a")


def test_a_segment_that_was_reported_as_final_cannot_change() -> None:
    progress = Progress(2.0, None, (make_segment("final"),))
    with pytest.raises(FrozenInstanceError):
        progress.final_segments[0].text = "changed"  # type: ignore[misc]


def test_transcripts_do_not_share_their_accounts() -> None:
    first, second = (Transcript("", (), None, None, 0.0, "m", Options(), {}, Coverage(0, 0)) for _ in range(2))
    first.account["price"] = 1.0
    assert second.account == {}
