"""What can change no more: groups of windows that overlap, channels that wait for one another."""

import numpy as np
import pytest

from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.merge import Passage, merge_windows
from handler.transcription.reorder_buffer import ReorderBuffer
from tests.support.segments import spoken, text_of


def window(start: float, end: float, shared: float = 0.0, channel: int | None = None) -> Window:
    samples = np.zeros(round((end - start) * SAMPLE_RATE), np.float32)
    return Window(round(start * SAMPLE_RATE), samples, channel=channel, shared=round(shared * SAMPLE_RATE))


def passage(of: Window, text: str) -> Passage:
    return Passage(of.start, of.end, of.speech, of.channel, [spoken(text, of.start / SAMPLE_RATE)])


def test_a_window_waits_for_those_before_it() -> None:
    order, windows = ReorderBuffer(), [window(0, 10), window(10, 20), window(20, 30)]
    for one in windows:
        order.cut(one)
    order.done(windows[1], passage(windows[1], "second"))
    assert order.finalize([None]) == []
    order.done(windows[0], passage(windows[0], "first"))
    assert text_of(order.finalize([None])) == "first second"
    assert order.reached([None]) == 20
    order.done(windows[2], passage(windows[2], "third"))
    assert text_of(order.finalize([None])) == "third"
    assert text_of(order.segments) == "first second third"


def test_windows_that_overlap_are_settled_together_as_they_are_joined() -> None:
    order = ReorderBuffer()
    first, second = window(0, 10, shared=2), window(8, 18)
    texts = passage(first, " ".join("abcdefghijklmnopqrst")), passage(second, "q r s t u v w x")
    order.cut(first)
    order.done(first, texts[0])
    assert order.finalize([None]) == []  # the next one will hear its end again
    order.cut(second)
    order.done(second, texts[1])
    assert order.finalize([None]) == merge_windows(texts)
    assert text_of(order.segments) == " ".join("abcdefghijklmnopqrstuvwx")


def test_the_last_window_is_settled_when_there_will_be_no_other() -> None:
    order, last = ReorderBuffer(), window(0, 10, shared=2)
    order.cut(last)
    order.done(last, passage(last, "said"))
    assert order.finalize([None]) == []
    order.end()
    assert text_of(order.finalize([None])) == "said"


@pytest.mark.parametrize("ends", [True, False])
def test_a_channel_waits_for_what_another_may_still_say_before_it(ends: bool) -> None:
    order = ReorderBuffer()
    left, right, later = window(0, 10, channel=0), window(0, 8, channel=1), window(20, 30, channel=0)
    for one in (left, right, later):
        order.cut(one)
    order.done(left, passage(left, "one two three four five six seven eight nine ten eleven"))
    order.done(later, passage(later, "later"))
    assert order.finalize([0, 1]) == []
    order.done(right, passage(right, "aside"))
    final_segments = order.finalize([0, 1])
    assert text_of(final_segments).startswith("one")
    assert "aside" in text_of(final_segments)
    assert "later" not in text_of(final_segments)  # the other channel is known up to its eighth second only
    order.floor(1, 15.0)
    assert order.finalize([0, 1]) == []
    if ends:
        order.end()
    else:
        order.floor(1, 25.0)  # it is silent
    assert text_of(order.finalize([0, 1])) == "later"


def test_what_is_settled_ends_where_a_window_is_still_being_decoded() -> None:
    order, windows = ReorderBuffer(), [window(0, 10), window(12, 20)]
    for one in windows:
        order.cut(one)
    order.floor(None, 30.0)
    order.done(windows[0], passage(windows[0], "first"))
    order.finalize([None])
    assert order.reached([None]) == 12
    order.done(windows[1], passage(windows[1], "second"))
    order.finalize([None])
    assert order.reached([None]) == 30
