"""The release of final text: groups of windows that overlap, channels that wait for one another."""

import numpy as np
import pytest

from handler.editing.redactor import Redactor
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import merge_windows
from handler.transcription.reorder_buffer import ReorderBuffer
from tests.support.segments import make_segment, text_of


def window(start: float, end: float, overlap: float = 0.0, channel: int | None = None) -> Window:
    samples = np.zeros(round((end - start) * SAMPLE_RATE), np.float32)
    return Window(round(start * SAMPLE_RATE), samples, channel=channel, overlap=round(overlap * SAMPLE_RATE))


def decoded(window: Window, text: str) -> DecodedWindow:
    segments = [make_segment(text, window.start / SAMPLE_RATE)]
    return DecodedWindow(window.start, window.end, window.speech, window.channel, segments)


def test_a_window_waits_for_those_before_it() -> None:
    buffer, windows = ReorderBuffer(), [window(0, 10), window(10, 20), window(20, 30)]
    for each in windows:
        buffer.add(each)
    buffer.complete(windows[1], decoded(windows[1], "second"))
    assert buffer.finalize([None]) == []
    buffer.complete(windows[0], decoded(windows[0], "first"))
    assert text_of(buffer.finalize([None])) == "first second"
    assert buffer.finalized_until_s([None]) == 20
    buffer.complete(windows[2], decoded(windows[2], "third"))
    assert text_of(buffer.finalize([None])) == "third"
    assert text_of(buffer.segments) == "first second third"


def test_windows_that_overlap_are_settled_together_as_they_are_joined() -> None:
    buffer = ReorderBuffer()
    first, second = window(0, 10, overlap=2), window(8, 18)
    texts = decoded(first, " ".join("abcdefghijklmnopqrst")), decoded(second, "q r s t u v w x")
    buffer.add(first)
    buffer.complete(first, texts[0])
    assert buffer.finalize([None]) == []  # the next window contains its end, too
    buffer.add(second)
    buffer.complete(second, texts[1])
    assert buffer.finalize([None]) == merge_windows(texts)
    assert text_of(buffer.segments) == " ".join("abcdefghijklmnopqrstuvwx")


def test_the_last_window_is_settled_when_there_will_be_no_other() -> None:
    buffer, last = ReorderBuffer(), window(0, 10, overlap=2)
    buffer.add(last)
    buffer.complete(last, decoded(last, "said"))
    assert buffer.finalize([None]) == []
    buffer.end()
    assert text_of(buffer.finalize([None])) == "said"


@pytest.mark.parametrize("ends", [True, False])
def test_a_channel_waits_for_what_another_may_still_say_before_it(ends: bool) -> None:
    buffer = ReorderBuffer()
    left, right, later = window(0, 10, channel=0), window(0, 8, channel=1), window(20, 30, channel=0)
    for each in (left, right, later):
        buffer.add(each)
    buffer.complete(left, decoded(left, "one two three four five six seven eight nine ten eleven"))
    buffer.complete(later, decoded(later, "later"))
    assert buffer.finalize([0, 1]) == []
    buffer.complete(right, decoded(right, "aside"))
    final_segments = buffer.finalize([0, 1])
    assert text_of(final_segments).startswith("one")
    assert "aside" in text_of(final_segments)
    assert "later" not in text_of(final_segments)  # the other channel is final up to its eighth second only
    buffer.advance_watermark(1, 15.0)
    assert buffer.finalize([0, 1]) == []
    if ends:
        buffer.end()
    else:
        buffer.advance_watermark(1, 25.0)  # it is silent
    assert text_of(buffer.finalize([0, 1])) == "later"


def test_what_is_settled_ends_where_a_window_is_still_being_decoded() -> None:
    buffer, windows = ReorderBuffer(), [window(0, 10), window(12, 20)]
    for each in windows:
        buffer.add(each)
    buffer.advance_watermark(None, 30.0)
    buffer.complete(windows[0], decoded(windows[0], "first"))
    buffer.finalize([None])
    assert buffer.finalized_until_s([None]) == 12
    buffer.complete(windows[1], decoded(windows[1], "second"))
    buffer.finalize([None])
    assert buffer.finalized_until_s([None]) == 30


def test_text_that_is_held_back_is_not_final() -> None:
    buffer, windows = ReorderBuffer(Redactor(("card",))), [window(0, 10), window(10, 20)]
    for each, text in zip(windows, ("the card is 4111 1111", "1111 1111 I think"), strict=True):
        buffer.add(each)
        assert buffer.finalize([None]) == []
        assert buffer.finalized_until_s([None]) == 0
        buffer.complete(each, decoded(each, text))
    buffer.end()
    assert text_of(buffer.finalize([None])) == "the card is [CARD] I think"
    assert text_of(buffer.segments) == "the card is [CARD] I think"
