"""Room for windows that are cut and not yet decoded: bounded in all, some of it for everybody."""

import random
import threading
from collections.abc import Callable

from handler.transcription.window_quota import WindowQuota, RequestQuota

FAIL_S = 60.0  # who waits longer waits for ever


def assert_ends_the_wait(share: RequestQuota, event: Callable[[], None]) -> None:
    """There is no room; whoever waits for it goes on after the event."""
    assert not share.fits()
    waiting = threading.Thread(target=share.take, daemon=True)
    waiting.start()
    event()
    waiting.join(FAIL_S)
    assert not waiting.is_alive()


def test_one_request_may_have_its_own_room_and_all_that_is_shared() -> None:
    budget = WindowQuota(own=2, shared=3)
    greedy, late = budget.share(), budget.share()
    for _ in range(5):
        greedy.take()
    assert not greedy.fits()
    late.take()
    late.take()  # its own are always there
    assert not late.fits()
    greedy.close()
    late.close()


def test_who_decodes_one_window_after_the_other_leaves_the_shared_room_to_others() -> None:
    budget = WindowQuota(own=2, shared=2)
    patient, greedy = budget.share(own_only=True), budget.share()
    patient.take()
    patient.take()
    assert not patient.fits()
    for _ in range(4):
        greedy.take()
    assert not greedy.fits()


def test_what_is_given_back_lets_others_go_on() -> None:
    budget = WindowQuota(own=1, shared=1)
    first, second = budget.share(), budget.share()
    first.take()
    first.take()
    second.take()
    assert_ends_the_wait(second, first.give)
    first.close()
    second.close()


def test_closing_ends_the_wait_and_gives_everything_back() -> None:
    budget = WindowQuota(own=1, shared=4)
    first, second = budget.share(), budget.share()
    for _ in range(5):
        first.take()
    assert_ends_the_wait(first, first.close)
    first.give()  # a window that was still being decoded
    for _ in range(5):
        second.take()


def test_no_order_of_taking_and_giving_loses_or_makes_room() -> None:
    budget = WindowQuota(own=2, shared=2)
    shares = [budget.share() for _ in range(4)]

    def work(share: RequestQuota, seed: int) -> None:
        chance, held = random.Random(seed), 0
        for _ in range(300):
            if held and chance.random() < 0.5:
                share.give()
                held -= 1
            elif held < 3:  # whoever waits holds nothing of what is shared
                share.take()
                held += 1
        share.close()

    threads = [threading.Thread(target=work, args=(share, seed), daemon=True) for seed, share in enumerate(shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAIL_S)
        assert not thread.is_alive()
    last = budget.share()
    for _ in range(4):
        last.take()
    assert not last.fits()
    last.close()
