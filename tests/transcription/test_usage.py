"""Totals of a process, counted from many threads at once."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from handler.transcription.usage import Counters

THREADS, ROUNDS = 8, 2_000


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as possible, so that an unguarded total would lose some of what was added."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_total_starts_at_nothing_and_is_the_sum_of_what_was_added() -> None:
    counters = Counters()
    assert counters.totals() == {}
    counters.add(requests=1, audio_s=2.5)
    counters.add(audio_s=0.25, failures=0)
    counters.add()
    assert counters.totals() == {"requests": 1, "audio_s": 2.75, "failures": 0}


def test_totals_that_were_read_are_a_copy() -> None:
    counters = Counters()
    counters.add(requests=1)
    read = counters.totals()
    counters.add(requests=1)
    assert read == {"requests": 1}
    read["requests"] = 100
    assert counters.totals() == {"requests": 2}


def test_counters_do_not_share_their_totals() -> None:
    first, second = Counters(), Counters()
    first.add(requests=1)
    assert second.totals() == {}


@pytest.mark.usefixtures("hasty_threads")
def test_nothing_is_lost_and_one_addition_is_never_seen_by_half() -> None:
    counters = Counters()
    counters.add(windows=0, speech_s=0)

    def add_and_read(_: int) -> bool:
        agreed = True
        for _ in range(ROUNDS):
            counters.add(windows=1, speech_s=0.5)
            totals = counters.totals()
            agreed = agreed and totals["speech_s"] == 0.5 * totals["windows"]
        return agreed

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(add_and_read, range(THREADS)))
    assert counters.totals() == {"windows": THREADS * ROUNDS, "speech_s": 0.5 * THREADS * ROUNDS}
