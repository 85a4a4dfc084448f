"""The one thread that owns the device: takes windows from the scheduler into the engine and hands results to whoever waits.

Knows no audio and no door; any thread or event loop may submit.
"""

import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass

from handler import logs
from handler.engine.scheduler import Scheduler
from handler.errors import AsrError, Cancelled, DeviceLost, Internal, OutOfMemory
from handler.schema.window import Engine, Window, WindowResult

FATAL_FAILURES = 3  # turns that fail with no window done between them: the device is lost


@dataclass(slots=True)
class Usage:
    """What a request has taken."""

    since: float  # when its first window came, on the clock
    wait_s: float | None = None  # until its first window was admitted
    device_s: float = 0.0  # its share of the device's time, by rows


class Runner:
    """Runs an engine until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._scheduler: Scheduler[Window] = Scheduler()
        self._futures: dict[Window, Future[WindowResult]] = {}
        self._dropped: list[Window] = []
        self._work = threading.Condition()
        self._closed = False
        self._failures = 0  # turns that ended in a fault since a window was done
        self._spent: dict[Hashable, Usage] = {}
        self.device_s = 0.0  # that the device has worked
        self.fault: DeviceLost | None = None  # why nothing will ever run again
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, request: Hashable, window: Window) -> "Future[WindowResult]":
        """Let a window of a request wait for its turn. The future ends with its result or an AsrError."""
        future: Future[WindowResult] = Future()
        future.set_running_or_notify_cancel()  # from here on only this class ends it
        with self._work:
            if self._closed:
                raise Cancelled("the worker is shutting down")
            if self.fault is not None:
                raise self.fault
            if (
                window.params.num_hypotheses > self.engine.max_batch_size
            ):  # since the batch was halved: it would wait for ever, and all others with it
                raise OutOfMemory(
                    f"the device has memory for {self.engine.max_batch_size} rows; the request needs {window.params.num_hypotheses}"
                )
            self._futures[window] = future
            self._spent.setdefault(request, Usage(time.perf_counter()))
            self._scheduler.submit(request, window, window.params.num_hypotheses)
            self._work.notify()
        return future

    def spent(self, request: Hashable) -> tuple[float, float]:
        """Seconds that a request's first window waited, and the request's share of the device's time, until `cancel` forgets it."""
        with self._work:
            spent = self._spent.get(request)
            return (spent.wait_s or 0.0, spent.device_s) if spent else (0.0, 0.0)

    def load(self) -> tuple[int, int]:
        """Windows that wait, and rows that are in use."""
        with self._work:
            return self._scheduler.waiting, sum(self._scheduler.shares().values())

    def cancel(self, request: Hashable) -> None:
        """Forget a request: its waiting windows never run, its running ones leave before the next step."""
        with self._work:
            forgotten, running = self._scheduler.cancel(request)
            self._dropped += running
            self._spent.pop(request, None)
            for window in (*forgotten, *running):
                self._futures.pop(window, None)
            self._work.notify()

    def close(self) -> None:
        """Stop after the step that is running; every future still open ends as cancelled."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()
        with self._work:
            left, self._futures = self._futures, {}
        for future in left.values():
            future.set_exception(Cancelled("the worker is shutting down"))

    def _run(self) -> None:
        while self._wait():
            began = time.perf_counter()
            try:
                if windows := self._take_turn():
                    self.engine.admit(windows)
                done = self.engine.advance()
                self._charge(time.perf_counter() - began)
                for window, result in done:
                    self._deliver(window, result)
                    self._failures = 0
            except OutOfMemory as exc:
                self._make_room(exc)
            except AsrError as exc:
                self._fail(exc)
            except Exception as exc:
                logs.error("engine_failed", exc)
                self._failures += 1
                self._fail(Internal(f"the engine failed: {type(exc).__name__}"), for_good=self._failures >= FATAL_FAILURES)

    def _wait(self) -> bool:
        """Sleep until there is something to do; false when there never will be."""
        with self._work:
            self._work.wait_for(lambda: self._closed or (self.fault is None and self._has_work()))
            return not self._closed

    def _has_work(self) -> bool:
        return bool(self._scheduler.waiting or self._scheduler.running or self._dropped)

    def _take_turn(self) -> list[Window]:
        """Drop what was cancelled, then choose what is admitted now."""
        with self._work:
            dropped, self._dropped = self._dropped, []
        if dropped:
            self.engine.drop(dropped)
        with self._work:
            return self._scheduler.admit(self.engine.free(), self.engine.encode_batch_size)

    def _charge(self, seconds: float) -> None:
        """Divide the time of a turn among the requests that were in it."""
        with self._work:
            self.device_s += seconds
            shares = self._scheduler.shares()
            rows = sum(shares.values())
            for request, mine in shares.items():
                if (spent := self._spent.get(request)) is not None:
                    spent.device_s += seconds * mine / rows
                    if spent.wait_s is None:
                        spent.wait_s = max(0.0, time.perf_counter() - seconds - spent.since)

    def _deliver(self, window: Window, result: WindowResult) -> None:
        with self._work:
            self._scheduler.finish(window)
            future = self._futures.pop(window, None)
        if future is not None:
            future.set_result(result)

    def _make_room(self, error: OutOfMemory) -> None:
        """Begin all running windows once more with half of the rows; where there is but one, they fail."""
        if self.engine.max_batch_size == 1:
            self._fail(error)
            return
        try:
            self.engine.halve()
        except Exception as exc:
            logs.error("engine_failed", exc)
            self._fail(error, for_good=True)
            return
        logs.warning("batch_halved", rows=self.engine.max_batch_size)
        with self._work:
            self._scheduler.again()
            futures = [self._futures.pop(window, None) for window in self._scheduler.forget_wide(self.engine.max_batch_size)]
        for future in futures:
            if future is not None:
                future.set_exception(error)

    def _fail(self, error: AsrError, for_good: bool = False) -> None:
        """End every running window with an error. The waiting ones still get their turn, unless the device is lost for good."""
        if for_good:
            self._give_up(DeviceLost(f"the device is lost: {error.message}"))
        with self._work:
            running = self._scheduler.running
            futures = [self._futures.pop(window, None) for window in running if self._scheduler.finish(window)]
        for future in futures:
            if future is not None:
                future.set_exception(error)
        try:
            self.engine.drop(running)
        except Exception as exc:
            logs.error("engine_lost", exc)
            self._give_up(DeviceLost(f"the device is lost: {error.message}"))

    def _give_up(self, fault: DeviceLost) -> None:
        """End every window with a fault; from here on none is taken."""
        with self._work:
            self.fault = fault
            left, self._futures = self._futures, {}
        for future in left.values():
            future.set_exception(fault)
