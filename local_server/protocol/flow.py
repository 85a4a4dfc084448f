"""Control when a connection is read and when its timers fire. Knows no HTTP."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class HoldableFlowControl(FlowControl):
    """Flow control that can be told to read nothing, even if a request asks for more of its body."""

    _is_held = False

    def hold(self) -> None:
        """Read nothing until `release` is called."""
        self._is_held = True
        self.pause_reading()

    def release(self) -> None:
        """Read again."""
        self._is_held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read again, unless `hold` is in effect."""
        if not self._is_held:
            super().resume_reading()


class Timers:
    """Calls functions later. At most one call of each function is pending."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: dict[Callable[[], None], TimerHandle] = {}

    def start(self, function: Callable[[], None], seconds: float) -> None:
        """Call a function after some seconds, unless a call of it is pending already."""
        if function not in self._pending:
            self._pending[function] = self._loop.call_later(seconds, self._fire, function)

    def cancel(self, function: Callable[[], None]) -> None:
        """Cancel the pending call of a function, if there is one."""
        handle = self._pending.pop(function, None)
        if handle is not None:
            handle.cancel()

    def cancel_all(self) -> None:
        """Cancel all pending calls."""
        for function in tuple(self._pending):
            self.cancel(function)

    def _fire(self, function: Callable[[], None]) -> None:
        del self._pending[function]
        function()
