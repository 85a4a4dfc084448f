"""Back-pressure: the windows that are cut and not yet decoded are bounded, and each request has some of its own."""

import random
import threading
from collections.abc import Callable

from handler.transcription.window_quota import RequestQuota, WindowQuota

MAX_WAIT_S = 60.0  # a longer wait counts as endless


def assert_ends_the_wait(quota: RequestQuota, event: Callable[[], None]) -> None:
    """Assert that there is no capacity, and that a wait for it ends after the event."""
    assert not quota.has_capacity()
    thread = threading.Thread(target=quota.acquire, daemon=True)
    thread.start()
    event()
    thread.join(MAX_WAIT_S)
    assert not thread.is_alive()


def test_one_request_may_take_its_own_windows_and_the_whole_pool() -> None:
    quota = WindowQuota(reserved=2, pool=3)
    greedy, modest = quota.for_request(), quota.for_request()
    for _ in range(5):
        greedy.acquire()
    assert not greedy.has_capacity()
    modest.acquire()
    modest.acquire()  # those reserved for it
    assert not modest.has_capacity()
    greedy.close()
    modest.close()


def test_a_request_that_decodes_in_order_leaves_the_pool_to_others() -> None:
    quota = WindowQuota(reserved=2, pool=2)
    patient, greedy = quota.for_request(reserved_only=True), quota.for_request()
    patient.acquire()
    patient.acquire()
    assert not patient.has_capacity()
    for _ in range(4):
        greedy.acquire()
    assert not greedy.has_capacity()


def test_a_released_window_ends_the_wait_of_another_request() -> None:
    quota = WindowQuota(reserved=1, pool=1)
    first, second = quota.for_request(), quota.for_request()
    first.acquire()
    first.acquire()
    second.acquire()
    assert_ends_the_wait(second, first.release)
    first.close()
    second.close()


def test_closing_ends_the_wait_and_releases_all_windows() -> None:
    quota = WindowQuota(reserved=1, pool=4)
    first, second = quota.for_request(), quota.for_request()
    for _ in range(5):
        first.acquire()
    assert_ends_the_wait(first, first.close)
    first.release()  # a window that was still being decoded
    for _ in range(5):
        second.acquire()


def test_no_order_of_acquiring_and_releasing_loses_or_creates_capacity() -> None:
    quota = WindowQuota(reserved=2, pool=2)
    requests = [quota.for_request() for _ in range(4)]

    def work(request: RequestQuota, seed: int) -> None:
        rng, num_windows = random.Random(seed), 0
        for _ in range(300):
            if num_windows and rng.random() < 0.5:
                request.release()
                num_windows -= 1
            elif num_windows < 3:  # so a request that waits holds no window of the pool
                request.acquire()
                num_windows += 1
        request.close()

    threads = [
        threading.Thread(target=work, args=(request, seed), daemon=True) for seed, request in enumerate(requests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MAX_WAIT_S)
        assert not thread.is_alive()
    last = quota.for_request()
    for _ in range(4):
        last.acquire()
    assert not last.has_capacity()
    last.close()
