"""Fairness, priority of first items, and cancelling, with plain items."""

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
    assert scheduler.admit(4, 9) == ["b2"]  # the other items of a wait for the first item of b
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
    empty_calls = 0
    while not (admitted := scheduler.admit(9, 1)):
        empty_calls += 1
    assert admitted == ["a3"]
    assert 1 < empty_calls <= PATIENCE
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
        for item in scheduler.running[:-1]:  # a short request is always running
            scheduler.finish(item)
    assert sum(item.startswith("long") for item in admitted) == 9


def test_no_more_items_are_admitted_than_sequences_are_free() -> None:
    scheduler: Scheduler[int] = Scheduler()
    for item in range(5):
        scheduler.submit("a", item)
    assert scheduler.admit(0, 9) == []
    assert len(scheduler.admit(3, 9)) == 3
    assert (scheduler.waiting, scheduler.running) == (2, [0, 1, 2])


def test_cancel_returns_the_waiting_and_the_running_items_of_a_request_and_leaves_others() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2"):
        scheduler.submit("a", item)
    scheduler.submit("b", "b1")
    assert scheduler.admit(1, 9) == ["a1"]
    assert scheduler.cancel("a") == (["a2"], ["a1"])
    assert scheduler.admit(9, 9) == ["b1"]
    assert not scheduler.finish("a1")
    assert scheduler.finish("b1")


def test_every_item_is_finished_once_or_cancelled_in_any_order_of_events() -> None:
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
                dropped_waiting, dropped_running = scheduler.cancel(request)
                cancelled |= {*dropped_waiting, *dropped_running}
                running = [item for item in running if item not in dropped_running]
        while running or scheduler.waiting:
            finished += running
            for item in running:
                assert scheduler.finish(item)
            running = scheduler.admit(rng.randrange(1, 9), 9)
        assert len(finished) == len(set(finished))
        assert set(finished) | cancelled == submitted
        assert not set(finished) & cancelled


def test_requeued_items_go_before_waiting_ones_and_items_that_became_too_wide_are_returned() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.submit("a", "a1", width=2)
    scheduler.submit("a", "a2")
    scheduler.submit("b", "b1")
    scheduler.submit("c", "c1", width=5)
    assert scheduler.admit(4, 9) == ["a1", "a2", "b1"]
    scheduler.requeue_running()
    assert scheduler.running == []
    assert scheduler.waiting == 4
    assert scheduler.drop_wider_than(4) == ["c1"]
    assert scheduler.admit(2, 9) == ["a1"]
    assert scheduler.finish("a1")
    assert scheduler.admit(9, 9) == ["b1", "a2"]
