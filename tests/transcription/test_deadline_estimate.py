"""What a request still needs follows from its windows so far, and is told only where they are enough to tell."""

import numpy as np
import pytest

from handler.errors import TooLong
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.deadline_estimate import MARGIN, MIN_WINDOWS, DeadlineEstimate, TimeLimit

DEVICE_S, DECODED_S = 20.0, 200.0  # a tenth of real time


def estimate(windows: int, spacing_s: float = 10.0, start_s: float = 0.0) -> DeadlineEstimate:
    """Return the estimate after windows of ten seconds that begin `spacing_s` apart."""
    found = DeadlineEstimate(start_s)
    for number in range(windows):
        start = round((start_s + number * spacing_s) * SAMPLE_RATE)
        found.add(Window(start, np.zeros(10 * SAMPLE_RATE, np.float32)))
    return found


def test_the_rest_of_the_audio_takes_as_long_as_what_came_before() -> None:
    assert estimate(10).remaining_s(1100.0, DEVICE_S, DECODED_S) == pytest.approx(100.0)


def test_silence_between_windows_is_expected_to_go_on() -> None:
    sparse = estimate(10, spacing_s=20.0)  # 100 s of windows in 190 s of audio
    assert sparse.remaining_s(2090.0, DEVICE_S, DECODED_S) == pytest.approx(190.0 * 100 / 190)


def test_audio_before_the_start_counts_for_nothing() -> None:
    assert estimate(10, start_s=500.0).remaining_s(1600.0, DEVICE_S, DECODED_S) == pytest.approx(100.0)


@pytest.mark.parametrize(("windows", "device_s"), [(MIN_WINDOWS - 1, DEVICE_S), (MIN_WINDOWS, 4.9)])
def test_too_little_work_tells_nothing(windows: int, device_s: float) -> None:
    assert estimate(windows).remaining_s(1000.0, device_s, DECODED_S) is None


@pytest.mark.parametrize("left_s", [100.0 / MARGIN - 0.1, -5.0])
def test_a_request_for_which_the_device_alone_takes_too_long_is_refused(left_s: float) -> None:
    with pytest.raises(TooLong, match=r"within 200 s \(the execution timeout\); 900 s of audio would take about"):
        TimeLimit.of(3600.0, 200.0).check(200.0 - left_s, 100.0, 900.0)


@pytest.mark.parametrize(("left_s", "remaining_s"), [(100.0, 100.0), (100.0 / MARGIN + 0.1, 100.0), (-5.0, None)])
def test_a_request_that_may_be_done_in_time_is_not_refused(left_s: float, remaining_s: float | None) -> None:
    TimeLimit.of(3600.0, 200.0).check(200.0 - left_s, remaining_s, 900.0)


@pytest.mark.parametrize(
    ("caller_s", "expected"),
    [
        (None, "within 60 s (REQUEST_TIMEOUT_S)"),
        (90.0, "within 60 s (REQUEST_TIMEOUT_S)"),
        (7.5, "within 7.5 s (the execution timeout)"),
    ],
)
def test_the_shorter_limit_counts(caller_s: float | None, expected: str) -> None:
    assert expected in TimeLimit.of(60.0, caller_s).expectation
