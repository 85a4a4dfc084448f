"""Finish the results of windows on the host, while the device goes on. Knows no slot and no token."""

from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future

from handler.schema.window import Window, WindowResult


class Assembly:
    """The windows whose results are complete but for the host's part of the work.

    `executor` does that part. Where it is None, as on a processor, which has nothing to go on with meanwhile, the part
    is done at once.
    """

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._futures: dict[Window, Future[WindowResult]] = {}

    def add(self, window: Window, finish: Callable[[], WindowResult]) -> None:
        """Have `finish` called, which returns the result of a window."""
        if self._executor is not None:
            self._futures[window] = self._executor.submit(finish)
        else:
            self._futures[window] = future = Future[WindowResult]()
            future.set_result(finish())

    def take(self, wait: bool) -> list[tuple[Window, WindowResult]]:
        """Remove and return the windows that are done, with their results. With `wait`, wait until all are done."""
        done = [(window, future) for window, future in self._futures.items() if wait or future.done()]
        for window, _ in done:
            del self._futures[window]
        return [(window, future.result()) for window, future in done]

    def drop(self, windows: Collection[Window]) -> None:
        """Forget windows. What is being done for them ends without a result."""
        for window in windows:
            self._futures.pop(window, None)

    def abandon(self) -> None:
        """Forget all windows."""
        self._futures.clear()
