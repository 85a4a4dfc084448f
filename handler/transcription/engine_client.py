"""The engine as one request sees it. Knows no audio and no text."""

import asyncio

from handler.engine.runner import Runner
from handler.schema.window import Window, WindowResult
from handler.timeline import Timeline
from handler.transcription.fallback import is_finite
from handler.transcription.usage import Counters


class EngineClient:
    """Submits the windows of one request to the engine, and counts what comes of them.

    A window whose temperature is above `temperature`, the request's own, counts as a fallback. Windows that are urgent
    go before others.
    """

    def __init__(self, runner: Runner, counters: Counters, temperature: float, *, is_urgent: bool = False) -> None:
        self._runner = runner
        self._counters = counters
        self._temperature = temperature
        self._is_urgent = is_urgent

    async def submit(self, window: Window) -> WindowResult:
        """Wait until a window is decoded, and return the result. Raises AsrError."""
        result = await asyncio.wrap_future(self._runner.submit(self, window, is_urgent=self._is_urgent))
        num_tokens = result.evidence.tokens if result.evidence else 0
        is_fallback = window.params.temperature > self._temperature
        is_odd = result.evidence is not None and not is_finite(result.evidence)
        self._counters.add(windows=1, tokens=num_tokens, fallbacks=is_fallback, not_finite=is_odd)
        return result

    def add_usage(self, timeline: Timeline) -> None:
        """Add for how many seconds the windows have waited for the device, and been decoded by it."""
        for span, seconds in zip(("wait", "device"), self._runner.usage(self), strict=True):
            timeline.add(span, seconds)

    def cancel(self) -> None:
        """Forget all windows that are not decoded yet. Any thread may call this."""
        self._runner.cancel(self)
