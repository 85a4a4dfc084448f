"""Loudness, cuts and trimming, on samples made here."""

import numpy as np
import pytest

from handler.audio.silence import LEVEL_FRAME, MARGIN, SILENCE_RMS, loudness, quietest_cut, trim_silence
from handler.schema.window import SAMPLE_RATE, Samples, Window


def tone(seconds: float, level: float = 0.5) -> Samples:
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def test_loudness_is_the_root_mean_square_of_each_frame() -> None:
    samples = np.concatenate((tone(1.0, 0.5), silence(1.0), tone(0.995, 0.1)))
    levels = loudness(samples)
    assert len(levels) == 299  # the last half of a frame is left out
    assert levels[:100] == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert levels[100:200] == pytest.approx(0.0)
    assert levels[200:] == pytest.approx(0.1 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("pause_at_s", [6.0, 7.5, 9.0])
def test_a_cut_lies_in_the_pause_within_the_stride(pause_at_s: float) -> None:
    samples = tone(10.0)
    first = round(pause_at_s * SAMPLE_RATE)
    samples[first : first + SAMPLE_RATE // 2] = 0
    assert first <= quietest_cut(samples, 5 * SAMPLE_RATE) <= first + SAMPLE_RATE // 2


def test_a_pause_before_the_stride_is_not_looked_for() -> None:
    samples = np.concatenate((tone(2.0), silence(1.0), tone(7.0)))
    assert quietest_cut(samples, 5 * SAMPLE_RATE) >= 5 * SAMPLE_RATE


def test_trimming_keeps_a_margin_and_the_place_in_the_audio() -> None:
    window = Window(48_000, np.concatenate((silence(2.0), tone(1.0), silence(3.0))))
    (trimmed,) = trim_silence(window)
    assert trimmed.start == 48_000 + 2 * SAMPLE_RATE - MARGIN
    assert abs(len(trimmed.samples) - (SAMPLE_RATE + 2 * MARGIN)) <= LEVEL_FRAME


def test_only_what_nobody_hears_is_silence() -> None:
    assert trim_silence(Window(0, silence(1.0))) == []
    assert trim_silence(Window(0, tone(1.0, SILENCE_RMS))) == []
    assert len(trim_silence(Window(0, tone(1.0, 2 * SILENCE_RMS)))) == 1
