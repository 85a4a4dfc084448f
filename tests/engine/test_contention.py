"""Whether others want the processors, by a clock and waiting times of the test's own."""

import threading

from handler.engine.contention import AGAIN_S, HOLD_S, INTERVAL_S, LONGEST_HOLD_S, Contention, waited_s


class System:
    """A clock, and threads that wait for a processor for some seconds of each second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waited = 7.0
        self.share = 0.0
        self.contention = Contention(lambda: self.waited, lambda: self.now)

    def pass_time(self, seconds: float) -> bool:
        """Let time pass in small steps, and return whether the processors are contended at the end."""
        for _ in range(round(seconds / INTERVAL_S * 4)):
            self.now += INTERVAL_S / 4
            self.waited += INTERVAL_S / 4 * self.share
            self.contention.update()
        return self.contention.is_contended


def test_threads_that_hardly_wait_are_alone() -> None:
    system = System()
    system.share = 0.01
    assert not system.pass_time(10.0)


def test_a_neighbour_is_noticed_soon_and_forgotten_when_it_is_gone() -> None:
    system = System()
    system.share = 0.6
    assert system.pass_time(2 * INTERVAL_S)
    assert system.pass_time(10.0)
    system.share = 0.0
    assert system.pass_time(HOLD_S - INTERVAL_S)
    assert not system.pass_time(2 * INTERVAL_S)


def test_a_neighbour_that_is_hidden_by_what_is_done_about_it_is_looked_for_ever_more_rarely() -> None:
    system = System()
    contended_s = list[float]()
    for _ in range(7):
        system.share = 0.6
        assert system.pass_time(2 * INTERVAL_S)
        system.share = 0.0
        began = system.now
        while system.pass_time(INTERVAL_S):
            pass
        contended_s.append(system.now - began)
    assert contended_s == sorted(contended_s)
    assert abs(contended_s[-1] - LONGEST_HOLD_S) <= 2 * INTERVAL_S
    system.pass_time(2 * AGAIN_S)
    system.share = 0.6
    assert system.pass_time(2 * INTERVAL_S)
    system.share = 0.0
    assert not system.pass_time(HOLD_S + 3 * INTERVAL_S)


def test_a_system_that_does_not_tell_has_no_contention() -> None:
    contention = Contention(lambda: 0.0)
    contention.update()
    assert not contention.is_contended


def test_the_system_tells_of_waiting_that_only_grows_even_while_threads_end() -> None:
    before = waited_s()
    threads = [threading.Thread(target=lambda: sum(range(1000))) for _ in range(20)]
    for thread in threads:
        thread.start()
    during = waited_s()
    for thread in threads:
        thread.join()
    assert before >= 0.0
    assert during >= 0.0
