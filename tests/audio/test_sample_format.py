"""Bounds on what a header may state, and the scale of float samples."""

import numpy as np
import pytest

from handler.audio.media_report import BLOCK_S
from handler.audio.sample_format import (
    MAX_BLOCK_SAMPLES,
    MAX_FILE_CHANNELS,
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    FloatScaler,
    check_sample_format,
    count_block_frames,
)
from handler.errors import UnsupportedMedia

VOICE = (0.4 * np.sin(2 * np.pi * np.arange(32_000)[:, None] / 61)).astype(np.float32)


@pytest.mark.parametrize("rate", [MIN_SAMPLE_RATE, 8_000, 44_100, 192_000, MAX_SAMPLE_RATE])
@pytest.mark.parametrize("channels", [1, 8, MAX_FILE_CHANNELS])
def test_what_recorders_write_is_allowed(rate: int, channels: int) -> None:
    check_sample_format(rate, channels)
    assert 1 <= count_block_frames(rate, channels) <= BLOCK_S * rate
    assert count_block_frames(rate, channels) * channels <= MAX_BLOCK_SAMPLES


@pytest.mark.parametrize("rate", [-1, 0, 1, MIN_SAMPLE_RATE - 1, MAX_SAMPLE_RATE + 1, 2**31 - 1, 2**32 - 1])
def test_other_sample_rates_are_refused_by_name(rate: int) -> None:
    with pytest.raises(UnsupportedMedia, match=f"{rate} Hz"):
        check_sample_format(rate, 1)


@pytest.mark.parametrize("channels", [0, MAX_FILE_CHANNELS + 1, 1024, 65_535])
def test_other_numbers_of_channels_are_refused_by_name(channels: int) -> None:
    with pytest.raises(UnsupportedMedia, match=f"states {channels}$"):
        check_sample_format(8_000, channels)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_integers_that_were_written_as_floats_get_their_level_back(bits: int) -> None:
    integers = np.rint(VOICE * 2.0 ** (bits - 1))
    assert np.allclose(FloatScaler().scale(integers), VOICE, atol=2e-4)


def test_integers_that_were_resampled_afterwards_are_scaled_to_full_scale() -> None:
    scaled = FloatScaler().scale(VOICE * np.float32(32_768.3))
    assert 0.25 < np.abs(scaled).max() <= 1.0


def test_the_scale_of_a_quiet_start_is_that_of_the_rest() -> None:
    scaler = FloatScaler()
    quiet = scaler.scale(np.rint(VOICE * 10))
    loud = scaler.scale(np.rint(VOICE * 32_768))
    assert np.abs(quiet).max() < 0.001
    assert np.abs(loud).max() == pytest.approx(0.4, abs=0.001)
    assert np.abs(scaler.scale(np.rint(VOICE * 10))).max() < 0.001


@pytest.mark.parametrize("gain", [0.001, 1.0, 2.4, 7.0])
def test_ordinary_floats_stay_as_they_are_however_hot(gain: float) -> None:
    samples = VOICE * np.float32(gain)
    assert np.array_equal(FloatScaler().scale(samples), samples)


def test_a_few_damaged_samples_do_not_silence_the_rest() -> None:
    scaler = FloatScaler()
    damaged = VOICE.copy()
    damaged[100:106, 0] = [np.nan, np.inf, -np.inf, 1e30, -3e7, 60_000.0]
    scaled = scaler.scale(damaged)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled).max() <= 8
    assert np.array_equal(scaled[200:], VOICE[200:])
    assert np.array_equal(scaler.scale(VOICE), VOICE)


def test_nothing_is_scaled_in_nothing() -> None:
    assert FloatScaler().scale(np.zeros((0, 2), np.float32)).shape == (0, 2)
