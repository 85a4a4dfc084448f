"""Cutting and assembling, on samples made here."""

import numpy as np
import pytest

from handler.longform import Cutter, Window, WindowResult, placed, quietest
from handler.schema import SAMPLE_RATE, Segment
from tests.speech import Samples, silence

RNG = np.random.default_rng(0)


def noise(seconds: float, level: float = 0.1) -> Samples:
    return (level * RNG.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def cut(samples: Samples, longest: float = 30, stride: float = 5, block: int = 7777) -> list[Window]:
    cutter = Cutter(longest, stride)
    windows = [window for at in range(0, len(samples), block) for window in cutter.push(samples[at : at + block])]
    return windows + cutter.finish()


def test_a_short_file_is_one_window() -> None:
    (window,) = cut(samples := noise(5))
    assert window.start == 0
    assert np.array_equal(window.samples, samples)


def test_a_long_file_is_cut_where_it_is_quiet_within_the_stride() -> None:
    samples = np.concatenate([noise(27), silence(0.6), noise(25), silence(0.6), noise(10)])
    windows = cut(samples)
    assert len(windows) == 3
    assert 27.0 <= windows[1].start / SAMPLE_RATE <= 27.6
    assert 52.6 <= windows[2].start / SAMPLE_RATE <= 53.2


def test_no_window_is_longer_than_allowed_and_none_of_the_sound_is_lost() -> None:
    samples = noise(100)
    windows = cut(samples, longest=12, stride=2)
    assert all(window.seconds <= 12 for window in windows)
    assert np.array_equal(np.concatenate([window.samples for window in windows]), samples)


def test_windows_do_not_depend_on_how_the_samples_arrive() -> None:
    samples = np.concatenate([noise(20), silence(1), noise(40)])
    once, often = cut(samples, block=len(samples)), cut(samples, block=500)
    assert [(w.start, len(w.samples)) for w in once] == [(w.start, len(w.samples)) for w in often]


@pytest.mark.parametrize("samples", [silence(0), silence(3), silence(95)])
def test_silence_makes_no_window(samples: Samples) -> None:
    assert cut(samples) == []


def test_silence_around_sound_is_left_out_but_for_a_margin() -> None:
    (window,) = cut(np.concatenate([silence(10), noise(2), silence(10)]))
    assert window.start / SAMPLE_RATE == pytest.approx(9.8)
    assert window.seconds == pytest.approx(2.4)


def test_faint_speech_is_no_silence() -> None:
    assert len(cut(noise(3, level=0.0005))) == 1


def test_a_stride_too_short_for_a_quiet_place_cuts_at_the_end() -> None:
    assert quietest(noise(3), stride=0) == 3 * SAMPLE_RATE


def test_segments_are_placed_inside_their_window_and_empty_ones_left_out() -> None:
    window = Window(10 * SAMPLE_RATE, noise(5))
    found = placed(window, WindowResult((Segment(0, 4, " a"), Segment(4, 30, " b"), Segment(5, 5, "  ")), None))
    assert [(s.start, s.end, s.text) for s in found] == [(10, 14, " a"), (14, 15, " b")]


def test_the_rest_of_a_window_begins_where_it_says() -> None:
    window = Window(100, noise(4))
    rest = window.since(1.5)
    assert rest.start == 100 + 24_000
    assert np.array_equal(rest.samples, window.samples[24_000:])
