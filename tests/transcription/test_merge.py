"""Silence, parts of windows, and joining their text, on generated samples and words."""

import numpy as np
import pytest

from handler.audio.silence import quietest_cut, trim_silence
from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.merge import join_overlap
from handler.transcription.word_edits import keep_words, to_audio_time
from tests.support.segments import make_segment, text_of
from tests.support.speech import Samples, silence

RNG = np.random.default_rng(0)


def noise(seconds: float, level: float = 0.1) -> Samples:
    return (level * RNG.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def test_a_stride_too_short_for_a_quiet_cut_cuts_at_the_end() -> None:
    assert quietest_cut(noise(3), stride=0) == 3 * SAMPLE_RATE


def test_silence_around_sound_is_left_out_but_for_a_margin() -> None:
    samples = np.concatenate([silence(10), noise(2), silence(10)])
    (window,) = trim_silence(Window(0, samples, speech=((0, len(samples)),)))
    assert window.start / SAMPLE_RATE == pytest.approx(9.8)
    assert window.seconds == pytest.approx(2.4)
    assert window.speech == ((window.start, window.end),)


def test_silence_is_no_window_and_faint_sound_is_one() -> None:
    assert trim_silence(Window(0, silence(3))) == []
    assert len(trim_silence(Window(0, noise(3, level=0.0005)))) == 1


def test_segments_lie_inside_their_window_and_empty_ones_are_dropped() -> None:
    window = Window(10 * SAMPLE_RATE, noise(5))
    words = (Word(1, 7, " b", 0.5),)
    result = WindowResult((Segment(0, 4, " a"), Segment(4, 30, " b", words=words), Segment(5, 5, "  ")), None)
    segments = to_audio_time(window, result)
    assert [(s.start, s.end, s.text) for s in segments] == [(10, 14, " a"), (14, 15, " b")]
    assert (segments[1].words[0].start, segments[1].words[0].end) == (11, 15)


def test_a_part_of_a_window_has_its_samples_and_its_speech() -> None:
    window = Window(100, noise(4), speech=((200, 8_000), (20_000, 30_000), (50_000, 60_000)), channel=1)
    part = window.part(24_100, 52_000)
    assert (part.start, part.end, part.channel) == (24_100, 52_000, 1)
    assert np.array_equal(part.samples, window.samples[24_000:51_900])
    assert part.speech == ((24_100, 30_000), (50_000, 52_000))


def test_a_segment_that_loses_words_has_the_text_and_the_times_of_those_it_keeps() -> None:
    (segment,) = keep_words([make_segment("one two three")], lambda word: word.text != " one")
    assert (segment.start, segment.end, segment.text) == (0.5, 1.5, " two three")
    assert keep_words([make_segment("one two three")], lambda word: False) == []


def test_words_that_two_windows_share_come_once() -> None:
    left = make_segment("we went down to the river and then back")
    right = make_segment("the river and then back home again", start=2.1)
    assert text_of(join_overlap([left], [right], (2.0, 4.5))) == "we went down to the river and then back home again"


def test_a_word_that_comes_twice_joins_two_windows_only_at_its_own_time() -> None:
    left = make_segment("alpha the beta gamma delta", start=0.0)
    right = make_segment("delta and then the end", start=2.0)
    assert text_of(join_overlap([left], [right], (0.0, 3.0))) == "alpha the beta gamma delta and then the end"


def test_words_of_only_one_of_two_windows_stay() -> None:
    left, right = make_segment("one two three"), make_segment("four five six seven eight", start=5.0)
    assert text_of(join_overlap([left], [right], (4.0, 9.0))) == "one two three four five six seven eight"


def test_windows_that_disagree_about_their_overlap_meet_in_its_middle() -> None:
    left = make_segment("a b c d")
    right = make_segment("w x y z", start=1.0)
    assert text_of(join_overlap([left], [right], (1.0, 2.0))) == "a b c x y z"
