"""Channels mixed to one: at their level, and without losing what cancels."""

import numpy as np
import pytest

from handler.audio.media_report import Planes
from handler.audio.mixing import ChannelMixer, pad_channels

RATE = 16_000
N = 2 * RATE
NOISE = np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32)
SPEECH, OTHER = 0.1 * NOISE[:, 0], 0.05 * NOISE[:, 1]


def level(samples: Planes) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def mix(*channels: Planes) -> Planes:
    """Return the mix of channels, which arrive in four blocks."""
    mixer = ChannelMixer()
    planes = np.stack(channels, 1).astype(np.float32)
    return np.concatenate([mixer.mix(part, RATE) for part in np.split(planes, 4)])[:, 0]


def test_channels_are_mixed_to_their_mean() -> None:
    channels = [SPEECH, OTHER, 0 * SPEECH, 0.5 * SPEECH + OTHER]
    assert np.allclose(mix(*channels), np.mean(channels, axis=0), atol=1e-6)
    assert np.array_equal(mix(SPEECH), SPEECH)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (SPEECH, -SPEECH),
        (SPEECH, -0.5 * SPEECH),
        (-0.5 * SPEECH, SPEECH),
        (SPEECH + 0.2, -SPEECH + 0.2),
        (SPEECH + 0.02 * NOISE[:, 2], -SPEECH + 0.02 * NOISE[:, 3]),
        (SPEECH + 0.02 * NOISE[:, 2], -SPEECH + 0.02 * NOISE[:, 2]),
    ],
    ids=["exact", "quieter", "louder", "with an offset", "with noise", "with hum"],
)
def test_an_inverted_channel_does_not_cancel_the_other(left: Planes, right: Planes) -> None:
    mixed = mix(left, right)
    assert np.allclose(mixed, left, atol=1e-6) or np.allclose(mixed, right, atol=1e-6)
    loudest = max(level(channel - channel.mean()) for channel in (left, right))
    assert level(mixed - mixed.mean()) > 0.9 * loudest


def test_a_third_channel_stays_beside_two_that_cancel() -> None:
    mixed = mix(SPEECH, -SPEECH, OTHER)
    assert np.allclose(mixed, (SPEECH + OTHER) / 2, atol=1e-6)


def test_channels_of_equal_energy_do_not_take_turns() -> None:
    wobble = np.repeat([1.0, 1.1, 0.9, 1.1], N // 4).astype(np.float32)
    mixed = mix(SPEECH, -SPEECH * wobble)
    assert np.allclose(mixed, SPEECH, atol=1e-6) or np.allclose(mixed, -SPEECH * wobble, atol=1e-6)


def test_a_channel_that_becomes_inverted_is_heard_and_makes_no_click() -> None:
    tone = (0.3 * np.sin(2 * np.pi * 200 * np.arange(N) / RATE)).astype(np.float32)
    sign = np.where(np.arange(N) < N // 2, 1, -1)
    mixed = mix(tone, tone * sign)
    assert level(mixed[: N // 2]) == pytest.approx(level(tone), rel=0.02)
    assert level(mixed[N // 2 :]) == pytest.approx(level(tone), rel=0.02)
    assert np.abs(np.diff(mixed)).max() < 1.5 * np.abs(np.diff(tone)).max()


def test_silence_and_a_change_of_channels_are_mixed() -> None:
    mixer = ChannelMixer()
    assert not mixer.mix(np.zeros((100, 2), np.float32), RATE).any()
    assert mixer.mix(np.ones((100, 6), np.float32), RATE) == pytest.approx(1.0)
    assert mixer.mix(np.ones((100, 1), np.float32), RATE) == pytest.approx(1.0)
    assert mixer.mix(np.zeros((0, 2), np.float32), RATE).shape == (0, 1)


@pytest.mark.parametrize("level", [1 + 2**-23, 1 / 3, 0.1, 1e-30])
@pytest.mark.parametrize("frames", [1, 7, 4001])
def test_channels_that_do_not_vary_are_mixed_to_numbers(level: float, frames: int) -> None:
    planes = np.full((frames, 2), level, np.float32)
    np.testing.assert_allclose(ChannelMixer().mix(planes, 16_000), planes[:, :1], rtol=1e-5)


def test_missing_channels_are_silent() -> None:
    planes = np.ones((3, 2), np.float32)
    assert pad_channels(planes, 3).tolist() == [[1, 1, 0]] * 3
    assert pad_channels(planes, 1).tolist() == [[1]] * 3
