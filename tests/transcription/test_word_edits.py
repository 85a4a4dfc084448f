"""Words listed, filtered and compared, and their times in the audio."""

import random
from dataclasses import replace

import numpy as np
import pytest

from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.word_edits import (
    all_words,
    keep_words,
    letters_and_digits,
    normalize_word,
    to_audio_time,
)
from tests.support.segments import make_segment

EVIDENCE = Evidence(-0.2, 0.0, 1.1, 0.0, 5, looped=False)
WORDLESS = Segment(3.0, 4.0, " no times", (5, 6))


def window(start_s: float, seconds: float, channel: int | None = None) -> Window:
    return Window(round(start_s * SAMPLE_RATE), np.zeros(round(seconds * SAMPLE_RATE), np.float32), channel=channel)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" Hello,", "hello"),
        (" DON'T", "dont"),
        (" well-known", "wellknown"),
        (" $3.50", "350"),
        (" «École»", "école"),
        ("日本。", "日本"),
        (" …", ""),
        ("", ""),
    ],
)
def test_words_are_compared_by_their_letters_and_digits(text: str, normal: str) -> None:
    assert normalize_word(Word(0, 1, text, 0.9)) == letters_and_digits(text) == normal


def test_the_words_of_segments_come_in_the_given_order() -> None:
    later, sooner = make_segment("c d", start=5), make_segment("a b")
    assert [word.text for word in all_words([later, WORDLESS, sooner])] == [" c", " d", " a", " b"]
    assert all_words([]) == all_words([WORDLESS]) == []


def test_a_segment_without_words_or_with_all_of_them_is_kept_as_it_is() -> None:
    whole = replace(make_segment("all of it"), tokens=(1, 2, 3))
    assert keep_words([WORDLESS, whole], lambda word: True) == [WORDLESS, whole]
    assert keep_words([WORDLESS, whole], lambda word: False) == [WORDLESS]


def test_a_segment_that_loses_words_loses_its_tokens_and_keeps_all_else() -> None:
    segment = replace(make_segment("a b c"), tokens=(1, 2, 3), evidence=EVIDENCE, language="de", channel=1)
    (rest,) = keep_words([segment], lambda word: word.text != " b")
    kept = (segment.words[0], segment.words[2])
    assert rest == Segment(0.0, 1.5, " a c", (), EVIDENCE, kept, "de", 1)
    assert segment.tokens == (1, 2, 3)


@pytest.mark.parametrize("seed", range(10))
def test_exactly_the_words_that_pass_are_left_and_each_segment_fits_its_words(seed: int) -> None:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("abcdef", k=rng.randint(1, 6))) for _ in range(12)]
    segments = [make_segment(text, start=10.0 * number) for number, text in enumerate(texts)]
    unwanted = {f" {letter}" for letter in rng.sample("abcdef", 3)}
    kept = keep_words(segments, lambda word: word.text not in unwanted)
    assert all_words(kept) == [word for word in all_words(segments) if word.text not in unwanted]
    for segment in kept:
        assert segment.text == "".join(word.text for word in segment.words)
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)


@pytest.mark.parametrize("channel", [None, 0, 1])
def test_segments_take_the_channel_of_their_window_and_keep_what_was_decoded(channel: int | None) -> None:
    segment = replace(make_segment("one two"), tokens=(4, 5), evidence=EVIDENCE, language="en")
    (moved,) = to_audio_time(window(20, 5, channel), WindowResult((segment,), EVIDENCE))
    words = tuple(replace(word, start=word.start + 20, end=word.end + 20) for word in segment.words)
    assert moved == replace(segment, start=20.0, end=21.0, words=words, channel=channel)


def test_times_are_whole_milliseconds_in_order_and_inside_the_window() -> None:
    rng = random.Random(3)
    bounds = sorted(rng.uniform(0, 9) for _ in range(61))
    words = tuple(Word(bounds[i], bounds[i + 1], f" w{i}", 0.9) for i in range(60))
    segment = Segment(bounds[0], bounds[-1], "".join(word.text for word in words), words=words)
    (moved,) = to_audio_time(window(1234.56785, 7.00001), WindowResult((segment,), None))
    times = [time for word in moved.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times == [round(time, 3) for time in times]
    assert moved.start == times[0] == pytest.approx(1234.56785 + bounds[0], abs=0.001)
    assert moved.end == times[-1] == pytest.approx(1234.56785 + 7.0, abs=0.001)


@pytest.mark.parametrize(("text", "kept"), [(" ...", 0), (" ♪ ♪", 0), (" -", 0), (" 7", 1), (" é!", 1), ("你", 1)])
def test_a_segment_needs_a_letter_or_digit(text: str, kept: int) -> None:
    assert len(to_audio_time(window(0, 5), WindowResult((Segment(0, 1, text),), None))) == kept
