"""Test how slow an upload may be."""

import math

import pytest

from handler.errors import DeadlineExceeded
from local_server.uploads.pace import MAX_CREDIT, UploadPace


def seconds_until_ended(pace: UploadPace, sizes: list[int], interval_s: float, limit_s: float = 100_000) -> float:
    """Return when an upload ends that gets one of `sizes` bytes, in turns, every `interval_s`, or `limit_s`."""
    time_s = 0.0
    while time_s < limit_s:
        time_s += interval_s
        try:
            pace.count(sizes[round(time_s / interval_s) % len(sizes)], interval_s)
        except DeadlineExceeded:
            return time_s
    return math.inf


@pytest.mark.parametrize(
    ("sizes", "interval_s"),
    [([1], 59.0), ([1], 1.0), ([49], 1.0), ([0, 0, 0, 100], 1.0)],
    ids=["a byte a minute", "a byte a second", "almost enough", "half of it"],
)
def test_an_upload_that_stays_below_the_rate_is_ended(sizes: list[int], interval_s: float) -> None:
    first_s = seconds_until_ended(UploadPace(50, 60), sizes, interval_s)
    assert 60 <= first_s < 60 / (1 - sum(sizes) / len(sizes) / interval_s / 50) + 2 * interval_s


@pytest.mark.parametrize(
    ("sizes", "interval_s"),
    [([600], 1.0), ([13], 0.16), ([50], 1.0), ([600] * 300 + [40] * 300, 1.0), ([3000], 59.0)],
    ids=["AMR at 4.75 kbit/s", "AMR in a pause", "just enough", "speech and pauses of minutes", "a piece a minute"],
)
def test_live_audio_passes(sizes: list[int], interval_s: float) -> None:
    assert seconds_until_ended(UploadPace(50, 60), sizes, interval_s) == math.inf


def test_a_fast_beginning_pays_for_a_limited_time() -> None:
    pace = UploadPace(50, 60)
    pace.count(10**9, 0.0)
    assert pace.credit_s == MAX_CREDIT * 60
    assert seconds_until_ended(pace, [0], 1.0) == MAX_CREDIT * 60 + 1


def test_the_error_names_the_rate_and_its_variable() -> None:
    with pytest.raises(DeadlineExceeded, match=r"50 bytes .*UPLOAD_MIN_RATE"):
        UploadPace(50, 60).count(1, 61.0)


def test_a_rate_of_zero_allows_any() -> None:
    pace = UploadPace(0, 60)
    pace.count(0, 1e9)
    assert pace.credit_s == math.inf
