"""Fairness, priority of first items, and cancelling, with plain items."""

import random

import numpy as np
import pytest

from handler.engine.scheduler import Scheduler


def test_requests_take_turns_and_a_first_item_goes_before_them() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2", "a3", "a4"):
        scheduler.submit("a", item)
    assert scheduler.admit(2, 9) == ["a1", "a2"]
    assert scheduler.finish("a1")
    for item in ("b1", "b2", "b3"):
        scheduler.submit("b", item)
    assert scheduler.admit(1, 9) == ["b1"]
    assert scheduler.admit(4, 9) == ["a3", "b2", "a4", "b3"]


def test_the_request_with_the_fewest_running_sequences_is_next() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for item in ("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4"):
        scheduler.submit(item[0], item, width=3 if item == "b2" else 1)
    assert scheduler.admit(3, 9) == ["a1", "a2", "b1"]
    assert scheduler.admit(5, 9) == ["b2", "a3", "a4"]
    assert scheduler.finish("b2")
    assert scheduler.admit(1, 9) == ["b3"]


def test_a_stream_of_short_requests_takes_no_more_than_half_from_a_long_one() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for index in range(100):
        scheduler.submit("long", f"long {index}")
    assert scheduler.finish(*scheduler.admit(1, 9))
    admitted = list[str]()
    for number in range(120):
        scheduler.submit(number, f"short {number}")
        admitted += scheduler.admit(1, 9)
        assert scheduler.finish(admitted[-1])
    assert sum(item.startswith("long") for item in admitted) == 60


STEPS = 112  # of a window of 28 s of speech
CLIP_STEPS = 17  # of a clip


class Load:
    """Requests that a simulated device decodes, each item in a number of steps."""

    def __init__(self, rows: int, limit: int) -> None:
        self.scheduler: Scheduler[tuple[str, int]] = Scheduler()
        self.rows = rows
        self.limit = limit
        self.remaining: dict[tuple[str, int], int] = {}  # steps of the running items
        self.unfinished: dict[str, int] = {}  # items of the requests
        self.rows_in_use = list[int]()  # in each step
        self.latencies = list[int]()  # steps from the submission to the end of each request
        self.finished: dict[str, int] = {}  # items of the requests
        self._submitted: dict[str, int] = {}  # step in which a request was submitted
        self._lengths: dict[tuple[str, int], int] = {}
        self._random = random.Random(1)

    def submit(self, request: str, items: int, steps: int) -> None:
        self._submitted[request] = len(self.rows_in_use)
        self.unfinished[request] = items
        for item in ((request, index) for index in range(items)):
            self._lengths[item] = max(1, round(self._random.gauss(steps, steps / 4)))
            self.scheduler.submit(request, item)

    def step(self) -> None:
        """Admit items, and run one step."""
        waiting, free = self.scheduler.waiting, self.rows - len(self.remaining)
        admitted = self.scheduler.admit(free, self.limit)
        assert len(admitted) == min(waiting, free, self.limit)  # no row is free while anybody waits
        self.remaining |= {item: self._lengths.pop(item) for item in admitted}
        self.rows_in_use.append(len(self.remaining))
        self.remaining = {item: steps - 1 for item, steps in self.remaining.items()}
        for request, index in [item for item, steps in self.remaining.items() if not steps]:
            del self.remaining[request, index]
            assert self.scheduler.finish((request, index))
            self.finished[request] = self.finished.get(request, 0) + 1
            self.unfinished[request] -= 1
            if not self.unfinished[request]:
                del self.unfinished[request]
                self.scheduler.cancel(request)
                self.latencies.append(len(self.rows_in_use) - self._submitted[request])

    def share_of_rows(self, after: int) -> float:
        """Return the share of the rows in use in all steps after the first ones."""
        return sum(self.rows_in_use[after:]) / len(self.rows_in_use[after:]) / self.rows


def jobs(rows: int, limit: int, jobs: int, windows: int) -> Load:
    """Return a load of so many jobs at a time, each followed by another one when it ends."""
    load = Load(rows, limit)
    for _ in range(4000):
        for _ in range(jobs - len(load.unfinished)):
            load.submit(f"job {len(load.latencies)} {load._random.random()}", windows, STEPS)
        load.step()
    return load


@pytest.mark.parametrize(
    ("rows", "limit", "number", "windows"),
    [(64, 4, 128, 2), (64, 4, 128, 5), (16, 1, 64, 2), (16, 1, 64, 5), (16, 1, 64, 20)],
)
def test_jobs_of_a_few_windows_fill_all_rows(rows: int, limit: int, number: int, windows: int) -> None:
    assert jobs(rows, limit, number, windows).share_of_rows(after=200) >= 0.99


@pytest.mark.parametrize(("rows", "limit"), [(64, 4), (16, 1)])
def test_short_clips_take_from_a_long_file_no_more_than_the_steps_that_they_need(rows: int, limit: int) -> None:
    load = Load(rows, limit)
    load.submit("long", 5000, STEPS)
    for step in range(8000):
        if step % 40 == 0:
            load.submit(f"clip {step}", 1, CLIP_STEPS)
        load.step()
    assert load.share_of_rows(after=200) >= 0.99
    alone = rows * 8000 / STEPS
    clips = rows * 8000 / 40 * CLIP_STEPS / rows / STEPS
    assert load.finished["long"] >= 0.95 * (alone - clips)
    p50, p95 = np.percentile(load.latencies, [50, 95])
    assert p95 <= 2 * p50
    assert p95 <= 3 * CLIP_STEPS


def test_the_slowest_of_short_requests_under_load_are_not_far_behind_the_others() -> None:
    p50, p95 = np.percentile(jobs(16, 1, 16, 1).latencies, [50, 95])
    assert p95 <= 4 * p50


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


def test_urgent_items_go_first_but_not_for_ever() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for number in range(4):
        scheduler.submit("file", f"file {number}")
    for number in range(8):
        scheduler.submit("live", f"live {number}", is_urgent=True)
    order = scheduler.admit(12, 12)
    assert order[:4] == [f"live {number}" for number in range(4)]
    assert order[4] == "file 0"
    assert order[5:9] == [f"live {number}" for number in range(4, 8)]


def test_while_a_request_is_urgent_others_leave_the_reserve_free() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for number in range(8):
        scheduler.submit("file", f"file {number}")
    scheduler.submit("live", "live 0", is_urgent=True)
    assert scheduler.admit(4, 9, reserve=3) == ["live 0", "file 0"]
    assert scheduler.finish("live 0")
    assert scheduler.admit(3, 9, reserve=3) == []  # the request may have another item soon
    scheduler.cancel("live")
    assert scheduler.admit(3, 9, reserve=3) == ["file 1", "file 2", "file 3"]


def test_an_urgent_item_that_is_put_back_is_still_urgent() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.submit("live", "live 0", is_urgent=True)
    assert scheduler.admit(1, 9) == ["live 0"]
    scheduler.submit("file", "file 0")
    scheduler.requeue_running()
    assert scheduler.admit(1, 9) == ["live 0"]


def test_a_wide_item_behind_the_reserve_blocks_no_urgent_one_and_runs_when_no_other_does() -> None:
    scheduler: Scheduler[str] = Scheduler()
    scheduler.submit("wide", "wide 0", width=5)
    scheduler.submit("live", "live", is_urgent=True)
    assert scheduler.admit(16, 2, reserve=14) == ["live", "wide 0"]  # nothing else runs
    scheduler.submit("wide", "wide 1", width=5)
    for number in range(10):  # there is no room for it, and urgent items go on
        scheduler.submit("live", f"live {number}", is_urgent=True)
        assert scheduler.admit(10, 1, reserve=14) == [f"live {number}"]
        assert scheduler.finish(f"live {number}")
