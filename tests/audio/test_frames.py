"""Frames of FFmpeg become blocks of samples, and gaps in their timestamps become silence."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from handler.audio.frames import SKIPPED_PAUSES, Clock, read_blocks
from handler.audio.media_report import MediaReport, Planes
from handler.audio.sample_format import MAX_BLOCK_SAMPLES
from handler.errors import UnsupportedMedia
from tests.support.memory import memory_limit

RATE = 8_000
Block = tuple[Planes, int]


def frame(
    values: Planes, time_s: float | None = None, rate: int = RATE, layout: str = "mono", format: str = "flt"
) -> av.AudioFrame:
    """Return a frame of samples. [n, channels]"""
    made = av.AudioFrame.from_ndarray(np.ascontiguousarray(values, np.float32).reshape(1, -1), "flt", layout)
    made.sample_rate, made.time_base = rate, Fraction(1, rate)
    made.pts = None if time_s is None else round(time_s * rate)
    (converted,) = av.AudioResampler(format, layout, rate).resample(made)
    converted.pts = made.pts
    return converted


def read(frames: list[av.AudioFrame], start_s: float | None = None) -> tuple[list[Block], MediaReport]:
    report = MediaReport()

    def source() -> Iterator[av.AudioFrame]:
        yield from frames

    return list(read_blocks(source(), Clock(start_s, report))), report


def ramp(count: int, channels: int = 1) -> Planes:
    """Return samples that are all different. [n, channels]"""
    return np.linspace(-1, 0.9, count * channels, dtype=np.float32).reshape(count, channels)


@pytest.mark.parametrize("format", ["u8", "u8p", "s16", "s16p", "s32", "s32p", "s64", "flt", "fltp", "dbl", "dblp"])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6), ("7.1", 8), ("22.2", 24)])
def test_every_sample_format_is_scaled_to_full_scale(format: str, layout: str, channels: int) -> None:
    values = ramp(5 * 1000, channels)
    frames = [frame(part, layout=layout, format=format) for part in np.split(values, 5)]
    blocks, _ = read(frames)
    assert np.concatenate([planes for planes, _ in blocks]) == pytest.approx(
        values, abs=0.01 if "u8" in format else 1e-4
    )


def test_many_small_frames_become_few_blocks() -> None:
    blocks, _ = read([frame(part) for part in np.split(ramp(5 * RATE), 500)])
    assert [len(planes) for planes, _ in blocks] == [RATE // 2] * 10


def test_blocks_are_bounded_by_samples() -> None:
    blocks, _ = read([frame(np.zeros((1000, 24), np.float32), rate=700_000, layout="22.2") for _ in range(100)])
    assert max(planes.size for planes, _ in blocks) <= MAX_BLOCK_SAMPLES


def test_a_gap_becomes_silence_at_its_place() -> None:
    tone = np.full((400, 1), 0.5, np.float32)
    blocks, report = read([frame(tone, 10.0), frame(tone, 10.05), frame(tone, 15.1), frame(tone, 15.3), frame(tone)])
    samples = np.concatenate([planes for planes, _ in blocks])[:, 0]
    expected = np.zeros(round(5.35 * RATE) + 400, np.float32)
    for start in (0, 400, round(5.1 * RATE), round(5.3 * RATE), round(5.35 * RATE)):
        expected[start : start + 400] = 0.5
    assert np.array_equal(samples, expected)
    assert report.warnings == []


def test_silence_before_the_first_frame_counts_from_the_start_of_the_recording() -> None:
    tone = np.full((400, 1), 0.5, np.float32)
    blocks, _ = read([frame(tone, 13.0)], start_s=10.0)
    assert sum(len(planes) for planes, _ in blocks) == 3 * RATE + 400


@pytest.mark.parametrize("jump_s", [3700.0, -3700.0, 1e6])
def test_a_clock_that_was_reset_leaves_no_gap(jump_s: float) -> None:
    tone = np.ones((400, 1), np.float32)
    blocks, report = read([frame(tone, 5000.0), frame(tone, 5000.0 + jump_s), frame(tone, 5000.05 + jump_s)])
    assert sum(len(planes) for planes, _ in blocks) == 1200
    assert report.warnings == []


def test_gaps_have_a_limit_that_grows_with_the_bytes() -> None:
    tone = np.ones((400, 1), np.float32)
    report = MediaReport()
    clock = Clock(None, report)
    gaps = [clock.advance(frame(tone, 3000.0 * number)) for number in range(3)]
    assert gaps == [0.0, pytest.approx(2999.95), 0.0]
    assert report.warnings == [SKIPPED_PAUSES]
    clock.add_bytes(1_000_000)
    assert clock.advance(frame(tone, 9000.0)) == pytest.approx(2999.95)


@pytest.mark.parametrize("splits", [True, False])
def test_a_long_gap_in_many_channels_takes_little_memory(splits: bool) -> None:
    tone = np.zeros((100, 24), np.float32)
    frames = [frame(tone, time_s, 192_000, "22.2") for time_s in (0.0, 1200.0)]  # 22 GB
    with memory_limit(256 * 1024**2):
        blocks = read_blocks(iter(frames), Clock(None, MediaReport()), splits)
        sizes = [planes.shape for planes, _ in blocks]
    assert sum(count for count, _ in sizes) == 1200 * 192_000 + 100
    assert sizes[-1][1] == 24
    assert {channels for _, channels in sizes} == ({24} if splits else {1, 24})


def test_rates_and_channels_may_change() -> None:
    frames = [
        *(frame(np.ones((400, 1), np.float32), rate=8_000) for _ in range(3)),
        *(frame(np.ones((480, 1), np.float32), rate=48_000) for _ in range(3)),
        *(frame(np.ones((480, 2), np.float32), rate=48_000, layout="stereo") for _ in range(3)),
        *(frame(np.ones((480, 2), np.float32), rate=48_000, layout="stereo", format="s16p") for _ in range(3)),
    ]
    blocks, _ = read(frames)
    assert [(planes.shape, rate) for planes, rate in blocks] == [
        ((1200, 1), 8_000),
        ((1440, 1), 48_000),
        ((2880, 2), 48_000),
    ]


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_becomes_impossible_is_unsupported(rate: int) -> None:
    last = frame(np.ones((400, 1), np.float32))
    last.sample_rate = rate
    with memory_limit(64 * 1024**2), pytest.raises(UnsupportedMedia, match=f"states {rate} Hz"):
        read([frame(np.ones((400, 1), np.float32)), last])


def test_samples_that_are_not_finite_become_silence() -> None:
    values = np.full((400, 1), 0.5, np.float32)
    values[::2] = np.nan
    blocks, _ = read([frame(values)])
    assert np.array_equal(blocks[0][0], np.nan_to_num(values))


def test_integers_in_floats_are_scaled() -> None:
    values = np.rint(20_000 * ramp(4000))
    blocks, _ = read([frame(values)])
    assert np.abs(blocks[0][0]).max() == pytest.approx(20_000 / 32_768, rel=0.01)
