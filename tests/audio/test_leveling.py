"""Gains for voice activity detection, on frames made here."""

import numpy as np
import pytest

from handler.audio.leveling import FALL_DB_PER_S, MAX_GAIN_DB, TARGET_DB, Leveler
from handler.schema.window import SAMPLE_RATE, Samples

FRAME = 512
FRAMES_PER_S = SAMPLE_RATE / FRAME
TARGET_RMS = 10 ** (TARGET_DB / 20)


def frames(*parts: tuple[int, float]) -> Samples:
    """Return frames of noise, from pairs of a number of frames and their root mean square. [n, FRAME]"""
    noise = np.random.default_rng(0).standard_normal((sum(count for count, _ in parts), FRAME))
    noise /= np.sqrt((noise**2).mean(1, keepdims=True))
    levels = np.concatenate([np.full((count, 1), level) for count, level in parts])
    return np.asarray(noise * levels, np.float32)


def test_sound_at_an_ordinary_level_keeps_its_level() -> None:
    assert (Leveler(FRAME).gains(frames((9, 0.2), (30, 0.001), (9, TARGET_RMS * 1.01))) == 1).all()


def test_quiet_sound_is_amplified_to_the_level_that_needs_no_gain() -> None:
    gains = Leveler(FRAME).gains(frames((20, TARGET_RMS / 10)))
    assert gains == pytest.approx(10.0, rel=1e-3)


def test_a_quiet_frame_between_louder_ones_is_amplified_as_they_are() -> None:
    gains = Leveler(FRAME).gains(frames((10, TARGET_RMS / 10), (1, TARGET_RMS / 80), (10, TARGET_RMS / 10)))
    assert gains == pytest.approx(10.0, rel=0.1)


def test_no_gain_is_higher_than_the_limit_and_digital_silence_stays_silent() -> None:
    gains = Leveler(FRAME).gains(np.concatenate((frames((9, 1e-6)), np.zeros((9, FRAME), np.float32))))
    assert gains == pytest.approx(10 ** (MAX_GAIN_DB / 20))


def test_a_click_is_not_amplified_and_does_not_change_the_gain_after_it() -> None:
    gains = Leveler(FRAME).gains(frames((10, TARGET_RMS / 10), (2, 0.5), (10, TARGET_RMS / 10)))
    assert (gains[10:12] == 1).all()
    assert gains[12:] == pytest.approx(10.0, rel=0.05)


def test_the_gain_rises_slowly_after_a_loud_sound() -> None:
    seconds = 30
    count = round(seconds * FRAMES_PER_S)
    gains = Leveler(FRAME).gains(frames((10, TARGET_RMS), (count, TARGET_RMS / 1000)))
    assert (np.diff(gains) > -1e-6).all()
    assert 20 * np.log10(gains[-1]) == pytest.approx(FALL_DB_PER_S * seconds, rel=0.01)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_the_gains_do_not_depend_on_how_many_frames_come_at_once(count: int) -> None:
    sound = frames((10, 1e-4), (2, 0.5), (40, 1e-3), (30, 0.1), (200, 1e-5))
    leveler = Leveler(FRAME)
    parts = [leveler.gains(sound[at : at + count]) for at in range(0, len(sound), count)]
    assert np.concatenate(parts) == pytest.approx(Leveler(FRAME).gains(sound), rel=1e-6)
