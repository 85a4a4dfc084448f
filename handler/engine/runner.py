"""The one thread that owns the device: passes windows from the scheduler to the engine, and results to the requests.

Any thread or event loop may submit windows. Knows no audio and no entry point.
"""

import threading
import time
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from handler import logs
from handler.engine.scheduler import Scheduler
from handler.errors import AsrError, Cancelled, DeviceLost, Internal, OutOfMemory
from handler.schema.window import Engine, Window, WindowResult

FATAL_FAILURES = 3  # turns that failed without a finished window between them: the device is lost


@dataclass(slots=True)
class Usage:
    """A request's use of the device."""

    submitted_at: float  # of its first window, on the clock
    wait_s: float | None = None  # until its first window was admitted
    device_s: float = 0.0  # its share of the device's time, by sequences


class Runner:
    """Runs an engine in a thread until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._scheduler: Scheduler[Window] = Scheduler()
        self._futures: dict[Window, Future[WindowResult]] = {}
        self._cancelled: list[Window] = []  # windows that the engine has to drop before its next step
        self._work = threading.Condition()
        self._is_closed = False
        self._failures = 0  # turns that failed since a window was finished
        self._usage: dict[Hashable, Usage] = {}
        self.device_s = 0.0  # time that the device has worked
        self.fault: DeviceLost | None = None  # the reason why nothing will ever run again
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, request: Hashable, window: Window) -> "Future[WindowResult]":
        """Queue a window of a request. The future ends with its result or an AsrError.

        Raises Cancelled after `close`, DeviceLost after the loss of the device, and OutOfMemory for a window that
        needs more sequences than the batch has since it was halved: it would wait for ever, and all others with it.
        """
        width = window.params.num_hypotheses
        future: Future[WindowResult] = Future()
        future.set_running_or_notify_cancel()  # from now on only this class ends it
        with self._work:
            if self._is_closed:
                raise Cancelled("the worker is shutting down")
            if self.fault is not None:
                raise self.fault
            if width > self.engine.max_batch_size:
                raise OutOfMemory(
                    f"the device has memory for {self.engine.max_batch_size} rows; the request needs {width}"
                )
            self._futures[window] = future
            self._usage.setdefault(request, Usage(time.perf_counter()))
            self._scheduler.submit(request, window, width)
            self._work.notify()
        return future

    def usage(self, request: Hashable) -> tuple[float, float]:
        """Return the seconds that a request's first window waited, and the request's share of the device's time.

        Both are 0 after `cancel`.
        """
        with self._work:
            usage = self._usage.get(request)
            return (usage.wait_s or 0.0, usage.device_s) if usage else (0.0, 0.0)

    def load(self) -> tuple[int, int]:
        """Return the number of waiting windows and the number of active sequences."""
        with self._work:
            return self._scheduler.waiting, sum(self._scheduler.shares().values())

    def cancel(self, request: Hashable) -> None:
        """Remove a request: its waiting windows never run, its running ones leave the batch before the next step."""
        with self._work:
            waiting, running = self._scheduler.cancel(request)
            self._cancelled += running
            self._usage.pop(request, None)
            for window in (*waiting, *running):
                self._futures.pop(window, None)
            self._work.notify()

    def close(self) -> None:
        """Stop after the current step; every unfinished future ends with Cancelled."""
        with self._work:
            self._is_closed = True
            self._work.notify()
        self._thread.join()
        self._fail_all(Cancelled("the worker is shutting down"))

    def _run(self) -> None:
        """Decode until `close`, one turn after the other."""
        while self._wait():
            try:
                self._take_turn()
            except OutOfMemory as exc:
                self._halve_batch(exc)
            except AsrError as exc:
                self._fail_running(exc)
            except Exception as exc:
                logs.error("engine_failed", exc)
                self._failures += 1
                error = Internal(f"the engine failed: {type(exc).__name__}")
                self._fail_running(error, is_fatal=self._failures >= FATAL_FAILURES)

    def _wait(self) -> bool:
        """Wait until there is something to do; return False after `close`."""
        with self._work:
            self._work.wait_for(lambda: self._is_closed or (self.fault is None and self._has_work()))
            return not self._is_closed

    def _has_work(self) -> bool:
        return bool(self._scheduler.waiting or self._scheduler.running or self._cancelled)

    def _take_turn(self) -> None:
        """Admit windows, let the engine work, and deliver the results."""
        start = time.perf_counter()
        if windows := self._choose_windows():
            self.engine.admit(windows)
        results = self.engine.advance()
        self._charge(time.perf_counter() - start)
        for window, result in results:
            self._deliver(window, result)
            self._failures = 0

    def _choose_windows(self) -> list[Window]:
        """Drop cancelled windows from the engine, and return the windows to admit now."""
        with self._work:
            cancelled, self._cancelled = self._cancelled, []
        if cancelled:
            self.engine.drop(cancelled)
        with self._work:
            return self._scheduler.admit(self.engine.free(), self.engine.encode_batch_size)

    def _charge(self, seconds: float) -> None:
        """Divide the time of a turn among the requests that were in it, by their sequences."""
        with self._work:
            self.device_s += seconds
            shares = self._scheduler.shares()
            sequences = sum(shares.values())
            for request, share in shares.items():
                if (usage := self._usage.get(request)) is not None:
                    usage.device_s += seconds * share / sequences
                    if usage.wait_s is None:
                        usage.wait_s = max(0.0, time.perf_counter() - seconds - usage.submitted_at)

    def _deliver(self, window: Window, result: WindowResult) -> None:
        with self._work:
            self._scheduler.finish(window)
            future = self._futures.pop(window, None)
        if future is not None:
            future.set_result(result)

    def _halve_batch(self, error: OutOfMemory) -> None:
        """Start all running windows again in a batch of half the size; in a batch of one sequence they fail."""
        if self.engine.max_batch_size == 1:
            self._fail_running(error)
            return
        try:
            self.engine.halve()
        except Exception as exc:
            logs.error("engine_failed", exc)
            self._fail_running(error, is_fatal=True)
            return
        logs.warning("batch_halved", rows=self.engine.max_batch_size)
        with self._work:
            self._scheduler.requeue_running()
            futures = self._pop_futures(self._scheduler.drop_wider_than(self.engine.max_batch_size))
        for future in futures:
            future.set_exception(error)

    def _fail_running(self, error: AsrError, is_fatal: bool = False) -> None:
        """End every running window with an error. The waiting ones still get their turn, unless the fault is fatal."""
        if is_fatal:
            self._give_up(DeviceLost(f"the device is lost: {error.message}"))
        with self._work:
            running = self._scheduler.running
            futures = self._pop_futures(window for window in running if self._scheduler.finish(window))
        for future in futures:
            future.set_exception(error)
        try:
            self.engine.drop(running)
        except Exception as exc:
            logs.error("engine_lost", exc)
            self._give_up(DeviceLost(f"the device is lost: {error.message}"))

    def _pop_futures(self, windows: Iterable[Window]) -> list[Future[WindowResult]]:
        """Remove and return the unfinished futures of windows; the caller holds the lock."""
        return [future for window in windows if (future := self._futures.pop(window, None)) is not None]

    def _give_up(self, fault: DeviceLost) -> None:
        """End every window with a fault; from now on none is accepted."""
        with self._work:
            self.fault = fault
        self._fail_all(fault)

    def _fail_all(self, error: AsrError) -> None:
        """End every unfinished future with an error."""
        with self._work:
            unfinished, self._futures = self._futures, {}
        for future in unfinished.values():
            future.set_exception(error)
