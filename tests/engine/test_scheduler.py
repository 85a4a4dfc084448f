"""Fairness, priority of first items, cancel: with plain integers."""

import random

from handler.engine.scheduler import PATIENCE, Scheduler


def test_requests_take_turns_and_a_first_item_goes_before_them() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2", "a3", "a4"):
        scheduler.submit("a", item)
    assert scheduler.admit(2, 9) == ["a1", "a2"]
    assert scheduler.finish("a1")
    scheduler.submit("b", "b1")
    scheduler.submit("b", "b2")
    assert scheduler.admit(1, 9) == ["b1"]
    assert scheduler.admit(4, 9) == ["b2"]  # what is left of a waits for the first item of b
    assert scheduler.finish("b1")
    scheduler.submit("b", "b3")
    assert scheduler.admit(4, 9) == ["a3", "b3", "a4"]


def test_while_a_first_item_runs_others_wait_but_not_for_ever() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2", "a3", "b1"):
        scheduler.submit(item[0], item)
    assert scheduler.admit(9, 2) == ["a1", "a2"]
    scheduler.submit("a", "a4")
    assert scheduler.admit(9, 1) == ["b1"]
    waited = 0
    while not (admitted := scheduler.admit(9, 1)):
        waited += 1
    assert admitted == ["a3"]
    assert 1 < waited <= PATIENCE
    assert scheduler.admit(9, 1) == []
    scheduler.cancel("b")
    assert scheduler.admit(9, 1) == ["a4"]


def test_a_stream_of_short_requests_does_not_starve_a_long_one() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for index in range(9):
        scheduler.submit("long", f"long {index}")
    admitted = scheduler.admit(1, 9)
    assert scheduler.finish(admitted[0])
    for number in range(12 * PATIENCE):
        scheduler.submit(number, f"short {number}")
        admitted += scheduler.admit(1, 9)
        for done in scheduler.running[:-1]:  # there is always a short one
            scheduler.finish(done)
    assert sum(item.startswith("long") for item in admitted) == 9


def test_no_more_is_admitted_than_there_is_room() -> None:
    scheduler: Scheduler[int] = Scheduler()
    for item in range(5):
        scheduler.submit("a", item)
    assert scheduler.admit(0, 9) == []
    assert len(scheduler.admit(3, 9)) == 3
    assert (scheduler.waiting, scheduler.running) == (2, [0, 1, 2])


def test_cancel_gives_back_what_waited_and_what_ran_and_leaves_the_others() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2"):
        scheduler.submit("a", item)
    scheduler.submit("b", "b1")
    assert scheduler.admit(1, 9) == ["a1"]
    assert scheduler.cancel("a") == (["a2"], ["a1"])
    assert scheduler.admit(9, 9) == ["b1"]
    assert not scheduler.finish("a1")
    assert scheduler.finish("b1")


def test_nothing_is_lost_and_nothing_comes_twice_in_any_order_of_events() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        scheduler: Scheduler[tuple[int, int]] = Scheduler()
        submitted, finished, cancelled = set(), list[tuple[int, int]](), set()
        running: list[tuple[int, int]] = []
        for step in range(200):
            request = rng.randrange(6)
            event = rng.random()
            if event < 0.5:
                scheduler.submit(request, (request, step))
                submitted.add((request, step))
            elif event < 0.8:
                running += scheduler.admit(rng.randrange(4), rng.randrange(1, 4))
            elif event < 0.95 and running:
                item = running.pop(rng.randrange(len(running)))
                assert scheduler.finish(item)
                finished.append(item)
            else:
                waited, ran = scheduler.cancel(request)
                cancelled |= {*waited, *ran}
                running = [item for item in running if item not in ran]
        while running or scheduler.waiting:
            finished += running
            for item in running:
                assert scheduler.finish(item)
            running = scheduler.admit(rng.randrange(1, 9), 9)
        assert len(finished) == len(set(finished))
        assert set(finished) | cancelled == submitted
        assert not set(finished) & cancelled


def test_what_runs_can_begin_again_before_what_waits_and_what_has_become_too_wide_is_given_back() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.submit("a", "a1", rows=2)
    scheduler.submit("a", "a2")
    scheduler.submit("b", "b1")
    scheduler.submit("c", "c1", rows=5)
    assert scheduler.admit(4, 9) == ["a1", "a2", "b1"]
    scheduler.again()
    assert scheduler.running == []
    assert scheduler.waiting == 4
    assert scheduler.forget_wide(4) == ["c1"]
    assert scheduler.admit(2, 9) == ["a1"]
    assert scheduler.finish("a1")
    assert scheduler.admit(9, 9) == ["b1", "a2"]
