"""The one thread that owns the device. It passes windows from the scheduler to the engine, and results to requests.

Any thread or event loop may submit windows. A turn is one round of the thread: it admits windows, lets the engine
advance, and delivers results. Knows no audio and no entry point.
"""

import threading
import time
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from math import ceil

from handler import logs
from handler.engine.heap import TRIM_EVERY_S, HeapTrimmer
from handler.engine.scheduler import Scheduler
from handler.errors import AsrError, Cancelled, DeviceLost, Internal, OutOfMemory
from handler.schema.window import Engine, Window, WindowResult

RUNGS = 5  # into which temperatures from 0 to 1 are divided, as the fallback climbs them
FATAL_FAILURES = 3  # the device counts as lost after this many unexpected failures with no finished window between them


@dataclass(slots=True)
class Usage:
    """Waiting time and device time of one request."""

    submitted_at: float  # time.perf_counter() when its first window was submitted
    wait_s: float | None = None  # from then until that window was admitted; None before
    device_s: float = 0.0  # its share of the time that the device has worked, in proportion to its sequences


class Runner:
    """Runs an engine in a thread of its own until `close`. Its methods may be called from any other thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._scheduler: Scheduler[Window] = Scheduler()
        self._futures: dict[Window, Future[WindowResult]] = {}
        self._cancelled: list[Window] = []  # windows that the engine has to drop before its next step
        self._work = threading.Condition()
        self._is_closed = False
        self._failures = 0  # turns that failed unexpectedly since a window was last finished
        self._usage: dict[Hashable, Usage] = {}
        self.device_s = 0.0  # total time that the device has worked
        self._device_s_by_temperature: dict[float, float] = {}
        # Memory of the host, which an accelerator leaves alone while it computes.
        self._heap = HeapTrimmer() if engine.device_name == "cpu" else None
        self.fault: DeviceLost | None = None  # set once the device is lost and no window will ever run again
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, request: Hashable, window: Window, *, is_urgent: bool = False) -> "Future[WindowResult]":
        """Queue a window of a request, and return a future of the window's result.

        The windows of a request are all urgent or none: urgent ones go before others.

        The future ends with the result or with an AsrError. After `cancel`, the future never ends.

        Raises Cancelled after `close`, and DeviceLost if the device is lost. Raises OutOfMemory if the window needs
        more sequences than the batch has room for, because it would otherwise wait forever and block all other windows.
        """
        width = window.params.num_hypotheses
        future: Future[WindowResult] = Future()
        future.set_running_or_notify_cancel()  # from now on, only this class ends the future
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
            self._scheduler.submit(request, window, width, is_urgent=is_urgent)
            self._work.notify()
        return future

    def usage(self, request: Hashable) -> tuple[float, float]:
        """Return a request's waiting time and its device time in seconds.

        The waiting time is that of the request's first window, 0 until that window is admitted. The device time is the
        request's share of the time that the device has worked. Both times are 0 for an unknown or cancelled request.
        """
        with self._work:
            usage = self._usage.get(request)
            return (usage.wait_s or 0.0, usage.device_s) if usage else (0.0, 0.0)

    def load(self) -> tuple[int, int]:
        """Return the number of waiting windows and the number of sequences of running windows."""
        with self._work:
            return self._scheduler.waiting, sum(self._scheduler.shares().values())

    def device_s_by_temperature(self) -> dict[float, float]:
        """Return the seconds that the device has worked, by the temperature that windows were decoded at.

        Temperatures are rounded up to a multiple of 1 / RUNGS.
        """
        with self._work:
            return dict(self._device_s_by_temperature)

    def cancel(self, request: Hashable) -> None:
        """Remove a request and its usage. The futures of its unfinished windows never end.

        The waiting windows of the request never run, and its running windows leave the batch before the next step.
        """
        with self._work:
            waiting, running = self._scheduler.cancel(request)
            self._cancelled += running
            self._usage.pop(request, None)
            for window in (*waiting, *running):
                self._futures.pop(window, None)
            self._work.notify()

    def close(self) -> None:
        """Wait for the engine's current step, stop the thread, and end every unfinished future with Cancelled."""
        with self._work:
            self._is_closed = True
            self._work.notify()
        self._thread.join()
        self._fail_all(Cancelled("the worker is shutting down"))

    def _run(self) -> None:
        """Admit windows, advance the engine and deliver results, again and again until `close`."""
        while self._wait():
            lacking: OutOfMemory | None = None
            try:
                self._take_turn()
            except OutOfMemory as exc:
                lacking = OutOfMemory(exc.message)  # without the frames of the turn, which hold tensors
            except DeviceLost as exc:
                logs.error("engine_failed", exc)
                self._give_up(exc)
            except AsrError as exc:
                self._fail_running(exc)
            except Exception as exc:
                logs.error("engine_failed", exc)
                self._failures += 1
                error = Internal(f"the engine failed: {type(exc).__name__}")
                self._fail_running(error, is_fatal=self._failures >= FATAL_FAILURES)
            if lacking is not None:
                self._halve_batch(lacking)

    def _wait(self) -> bool:
        """Wait until there is a window to run or to drop, and return True. Return False after `close`."""
        if self._heap is not None:
            with self._work:
                is_idle = not self._work.wait_for(self._is_needed, TRIM_EVERY_S)
            if is_idle:
                self._heap.trim_if_due()
        with self._work:
            self._work.wait_for(self._is_needed)
            return not self._is_closed

    def _is_needed(self) -> bool:
        has_work = self._scheduler.waiting or self._scheduler.running or self._cancelled
        return self._is_closed or bool(self.fault is None and has_work)

    def _take_turn(self) -> None:
        """Admit windows, let the engine advance, deliver results, and return memory that is free."""
        start = time.perf_counter()
        if windows := self._choose_windows():
            self.engine.admit(windows)
        results = self.engine.advance()
        self._charge(time.perf_counter() - start)
        for window, result in results:
            self._deliver(window, result)
            self._failures = 0
        if self._heap is not None:
            self._heap.trim_if_due()

    def _choose_windows(self) -> list[Window]:
        """Remove cancelled windows from the engine, and return the windows to admit now."""
        with self._work:
            cancelled, self._cancelled = self._cancelled, []
        if cancelled:
            self.engine.drop(cancelled)
        with self._work:
            return self._scheduler.admit(self.engine.free(), self.engine.encode_batch_size, self.engine.urgent_reserve)

    def _charge(self, seconds: float) -> None:
        """Divide the seconds of a turn among the requests that took part, in proportion to their sequences."""
        with self._work:
            self.device_s += seconds
            shares = self._scheduler.shares()
            sequences = sum(shares.values())
            for request, share in shares.items():
                if (usage := self._usage.get(request)) is not None:
                    usage.device_s += seconds * share / sequences
                    if usage.wait_s is None:
                        usage.wait_s = max(0.0, time.perf_counter() - seconds - usage.submitted_at)
            sequences_at: dict[float, int] = {}
            for window in self._scheduler.running:
                temperature = window.params.temperature
                sequences_at[temperature] = sequences_at.get(temperature, 0) + window.params.num_hypotheses
            for temperature, share in sequences_at.items():
                rung = ceil(round(RUNGS * temperature, 3)) / RUNGS
                total_s = self._device_s_by_temperature.get(rung, 0.0)
                self._device_s_by_temperature[rung] = total_s + seconds * share / sequences

    def _deliver(self, window: Window, result: WindowResult) -> None:
        with self._work:
            self._scheduler.finish(window)
            future = self._futures.pop(window, None)
        if future is not None:
            future.set_result(result)

    def _halve_batch(self, error: OutOfMemory) -> None:
        """Restart all running windows in a batch of half the size.

        If the batch already has only one sequence, the running windows end with `error`. Windows that need more
        sequences than the smaller batch has also end with `error`. If the engine cannot be halved, the device is lost.
        """
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
        """End the future of every running window with `error`. The waiting windows still run later.

        If `is_fatal`, the device is lost, and the futures of all windows, running or waiting, end with DeviceLost
        instead. If the engine fails to drop the running windows, the device is lost as well, and the futures of the
        waiting windows end with DeviceLost.
        """
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
        """Remove and return the unfinished futures of windows. The caller must hold the lock."""
        return [future for window in windows if (future := self._futures.pop(window, None)) is not None]

    def _give_up(self, fault: DeviceLost) -> None:
        """Mark the device as lost, and end every unfinished future with `fault`. No window is accepted from now on."""
        with self._work:
            self.fault = fault
        self._fail_all(fault)

    def _fail_all(self, error: AsrError) -> None:
        """End every unfinished future with `error`."""
        with self._work:
            unfinished, self._futures = self._futures, {}
        for future in unfinished.values():
            future.set_exception(error)
