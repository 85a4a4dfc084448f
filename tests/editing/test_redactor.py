"""Text that is told must be redacted, however it is divided into segments."""

from dataclasses import replace
from itertools import pairwise

import pytest

from handler.editing.redactor import Redactor
from handler.schema.option_parsers import REDACTED_KINDS
from handler.schema.transcript import Segment
from tests.editing.test_sensitive_text import HARMLESS, RULES, SENSITIVE
from tests.support.segments import make_segment, text_of


def divided(text: str, size: int, *, with_words: bool = True, channel: int | None = None) -> list[Segment]:
    """Return a text as segments of `size` words."""
    words = text.split()
    segments = [make_segment(" ".join(words[at : at + size]), at * 0.5) for at in range(0, len(words), size)]
    return [
        Segment(each.start, each.end, each.text, words=each.words if with_words else (), channel=channel, tokens=(1, 2))
        for each in segments
    ]


def told_one_by_one(redactor: Redactor, segments: list[Segment]) -> list[list[Segment]]:
    events = [redactor.push([segment], is_last=False) for segment in segments]
    return [*events, redactor.push([], is_last=True)]


@pytest.mark.parametrize("with_words", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("text", "expected"), SENSITIVE)
def test_nothing_leaks_in_an_earlier_event(text: str, expected: str, size: int, with_words: bool) -> None:
    text, expected = f"Well, look here. {text} And so on.", f"Well, look here. {expected} And so on."
    events = told_one_by_one(Redactor(RULES), divided(text, size, with_words=with_words))
    segments = [segment for event in events for segment in event]
    assert text_of(segments) == expected
    for segment in segments:
        assert not segment.words or "".join(word.text for word in segment.words) == segment.text
        assert "[" not in segment.text or segment.tokens == ()
    assert all(first.end <= second.start for first, second in pairwise(segments))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_keeps_its_segments(text: str) -> None:
    segments = divided(text, 2)
    assert [each for event in told_one_by_one(Redactor(RULES), segments) for each in event] == segments


def test_what_is_not_open_is_told_at_once() -> None:
    redactor = Redactor(("card",))
    first, second, third = divided("This is it. Now 4111 1111 1111 1111 that was it.", 3)[:3]
    assert redactor.push([first], is_last=False) == [first]
    assert redactor.push([second], is_last=False) == []
    assert redactor.held_from_s == second.start
    (told, *_) = redactor.push([third], is_last=False)
    assert told.text == " Now [CARD]"
    assert told.end == 4.0 > second.end
    assert redactor.counts == {"card": 1}


def test_words_become_one_that_lasts_as_long() -> None:
    (segment,) = Redactor(("card",)).push([make_segment("Card 4111 1111 1111 1111, yes.")], is_last=True)
    assert [(word.text, word.start, word.end) for word in segment.words] == [
        (" Card", 0, 0.5),
        (" [CARD],", 0.5, 2.5),
        (" yes.", 2.5, 3),
    ]


def test_channels_are_read_apart_and_told_in_order() -> None:
    left = divided("my card 4111 1111 1111 1111 thanks", 3, channel=0)
    right = divided("hm yes 5 go on then", 2, channel=1)
    segments = sorted([*left, *right], key=lambda each: (each.start, each.channel))
    events = told_one_by_one(Redactor(("card",)), segments)
    told = [each for event in events for each in event]
    assert text_of([each for each in told if each.channel == 0]) == "my card [CARD] thanks"
    assert text_of([each for each in told if each.channel == 1]) == "hm yes 5 go on then"
    assert [each.start for each in told] == sorted(each.start for each in told)


def test_what_is_found_is_not_parted_where_another_channel_is_open() -> None:
    texts = [(1, "my card is 4111 1111"), (0, "Extension 5"), (1, "1111 1111"), (1, "and that was it.")]
    segments = [replace(make_segment(text, number), channel=channel) for number, (channel, text) in enumerate(texts)]
    told = [each for event in told_one_by_one(Redactor(("card",)), segments) for each in event]
    assert text_of([each for each in told if each.channel == 1]) == "my card is [CARD] and that was it."


def test_a_channel_that_falls_silent_does_not_hold_up_others() -> None:
    redactor = Redactor(("card",))
    assert redactor.push([replace(make_segment("Ticket 12", 0), channel=1)], is_last=False) == []
    others = [replace(make_segment("go on please.", start), channel=0) for start in (1, 5, 15)]
    told = [len(redactor.push([each], is_last=False)) for each in others]
    assert told == [0, 0, 4]


def test_nothing_is_held_for_ever() -> None:
    redactor = Redactor(REDACTED_KINDS)
    for number in range(800):
        redactor.push([make_segment(f"{number}", number)], is_last=False)
    assert redactor.held_from_s > 100
