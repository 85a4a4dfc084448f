"""Turns at decoding: in order of asking, and a standstill is told from a queue."""

import threading

import pytest

from handler.transcription import decode_turns
from handler.transcription.decode_turns import DecodeTurns
from tests.support.serving import wait_until


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(decode_turns, "time", clock)
    return clock


def test_turns_are_given_in_the_order_of_asking() -> None:
    turns = DecodeTurns(1)
    order = list[int]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns:
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda count=count: len(turns._waiting) == count)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_long_queue_is_no_standstill_as_long_as_turns_are_given(clock: Clock) -> None:
    turns = DecodeTurns(1)
    turns.acquire()
    assert turns.waiting_s() == 0
    threads = [threading.Thread(target=turns.acquire) for _ in range(2)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda count=count: len(turns._waiting) == count)  # type: ignore[misc]
    clock.now += 50
    assert turns.waiting_s() == 50
    turns.release()  # the first has its turn now, the second has waited for 50 s
    clock.now += 3
    assert turns.waiting_s() == 3
    turns.release()
    for thread in threads:
        thread.join()
    assert turns.waiting_s() == 0
