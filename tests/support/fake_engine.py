"""An engine without a model, whose text for a window is the window's start."""

import threading
from collections.abc import Callable, Collection, Sequence

from handler.errors import OutOfMemory
from handler.schema.capabilities import Capabilities
from handler.schema.transcript import Evidence, Segment
from handler.schema.window import DecodingParams, Window, WindowResult

ALL_ABILITIES = Capabilities(
    languages=("en",),
    prompt=True,
    hotwords=True,
    word_times=True,
    token_logprobs=True,
    sampling=True,
    beam_search=True,
    text_tokens=50_256,
)


class FakeEngine:
    """Returns the start of each window, in samples, as its text; it can be paused and made to fail."""

    max_batch_size = 2
    encode_batch_size = 2
    urgent_reserve = 0
    model_id = "fake"
    device_name = "none"
    dtype_name = "none"
    attention = "none"
    capabilities = ALL_ABILITIES

    def __init__(self) -> None:
        self.running = list[Window]()
        self.dropped_windows = list[Window]()
        self.admitted_windows = list[tuple[int | None, int, DecodingParams]]()  # channel, start and parameters of each
        self.admitted = threading.Semaphore(0)  # released once for each admitted window
        self.may_run = threading.Event()
        self.may_run.set()
        self.failure: Exception | None = None
        self.memory_windows = 99  # windows that fit into memory at once
        self.seek_s: float | None = None
        self.pause_after: int | None = None  # windows to decode before `may_run` is cleared
        self.segments_of: Callable[[Window], tuple[Segment, ...]] = self._start_as_text
        self.evidence: Evidence | None = None

    def _start_as_text(self, window: Window) -> tuple[Segment, ...]:
        return (Segment(0, window.seconds, f" {window.start}", evidence=self.evidence),)

    def token_bytes(self, token: int) -> bytes:
        return b""

    def free(self) -> int:
        return self.max_batch_size - len(self.running)

    def admit(self, windows: Sequence[Window]) -> None:
        self.running += windows
        self.admitted_windows += [(window.channel, window.start, window.params) for window in windows]
        self.admitted.release(len(windows))

    def advance(self) -> list[tuple[Window, WindowResult]]:
        if self.failure is not None and self.running:
            raise self.failure
        if len(self.running) > self.memory_windows:
            raise OutOfMemory("expected less")
        if not self.may_run.wait(0.005):
            return []
        finished, self.running = self.running, []
        if self.pause_after is not None:
            self.pause_after -= len(finished)
            if self.pause_after <= 0:
                self.may_run.clear()
        return [(window, self._result(window)) for window in finished]

    def _result(self, window: Window) -> WindowResult:
        return WindowResult(self.segments_of(window), self.evidence, "en", {}, self.seek_s)

    def halve(self) -> None:
        self.max_batch_size //= 2
        self.running = []

    def drop(self, windows: Collection[Window]) -> None:
        self.dropped_windows += windows
        self.running = [window for window in self.running if window not in windows]
