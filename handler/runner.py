"""The one thread that owns the device: takes windows from the scheduler into the engine and hands results to whoever waits.

Knows no audio and no door; any thread or event loop may submit.
"""

import threading
from collections.abc import Hashable
from concurrent.futures import Future

from handler import logs
from handler.errors import AsrError, Cancelled, Internal
from handler.longform import Engine, Window, WindowResult
from handler.scheduler import Scheduler


class Runner:
    """Runs an engine until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._scheduler: Scheduler[Window] = Scheduler()
        self._futures: dict[Window, Future[WindowResult]] = {}
        self._dropped: list[Window] = []
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, request: Hashable, window: Window) -> "Future[WindowResult]":
        """Let a window of a request wait for its turn. The future ends with its result or an AsrError."""
        future: Future[WindowResult] = Future()
        future.set_running_or_notify_cancel()  # from here on only this class ends it
        with self._work:
            if self._closed:
                raise Cancelled("the worker is shutting down")
            self._futures[window] = future
            self._scheduler.submit(request, window)
            self._work.notify()
        return future

    def cancel(self, request: Hashable) -> None:
        """Forget a request: its waiting windows never run, its running ones leave before the next step."""
        with self._work:
            forgotten, running = self._scheduler.cancel(request)
            self._dropped += running
            for window in (*forgotten, *running):
                self._futures.pop(window, None)
            self._work.notify()

    def close(self) -> None:
        """Stop after the step that is running; every future still open ends as cancelled."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()
        for future in self._futures.values():
            future.set_exception(Cancelled("the worker is shutting down"))
        self._futures.clear()

    def _run(self) -> None:
        while self._wait():
            windows: list[Window] = []
            try:
                windows = self._take_turn()
                if windows:
                    self.engine.admit(windows)
                for window, result in self.engine.advance():
                    self._deliver(window, result)
            except AsrError as exc:
                self._fail(exc)
            except Exception as exc:
                logs.error("engine_failed", exc)
                self._fail(Internal(f"the engine failed: {type(exc).__name__}"))

    def _wait(self) -> bool:
        """Sleep until there is something to do; false when there never will be."""
        with self._work:
            self._work.wait_for(lambda: self._closed or self._scheduler.waiting or self._scheduler.running or self._dropped)
            return not self._closed

    def _take_turn(self) -> list[Window]:
        """Drop what was cancelled, then choose what is admitted now."""
        with self._work:
            dropped, self._dropped = self._dropped, []
        if dropped:
            self.engine.drop(dropped)
        with self._work:
            return self._scheduler.admit(self.engine.free())

    def _deliver(self, window: Window, result: WindowResult) -> None:
        with self._work:
            self._scheduler.finish(window)
            future = self._futures.pop(window, None)
        if future is not None:
            future.set_result(result)

    def _fail(self, error: AsrError) -> None:
        """End every running window with an error; the waiting ones still get their turn."""
        with self._work:
            running = self._scheduler.running
            futures = [self._futures.pop(window, None) for window in running if self._scheduler.finish(window)]
        self.engine.drop(running)
        for future in futures:
            if future is not None:
                future.set_exception(error)
